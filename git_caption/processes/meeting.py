"""How processes that a launcher started find each other, take turns and end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from git_caption.errors import JobFailed, UsageError, reason
from git_caption.processes.launch import ATTEMPT, as_torchrun, local_rank, rank, world_size
from git_caption.processes.ranks import END_SECONDS, POLL_SECONDS, Ranks, prefixed

MEET_SECONDS = 600.0  # between the start of the first process and of the last

_met: Ranks | None = None


def met() -> Ranks | None:
    """The processes that this one works with; None where it is alone, or `meet` was not called."""
    return _met


def meet(seconds: float = MEET_SECONDS) -> None:
    """Meet the other processes that a launcher started, if any.

    Raises:
        UsageError: nothing says where.
        JobFailed: not all of them came in time.
    """
    global _met
    if _met is not None or world_size() == 1:
        return
    as_torchrun()
    from torch.distributed.rendezvous import rendezvous

    try:
        store, number, size = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
    except (RuntimeError, ValueError) as error:
        raise JobFailed(
            f"rank {rank()} did not meet the other {world_size() - 1} processes at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {seconds:g} s ({reason(error)}); see that all were started, and that "
            "the port is free and reachable"
        ) from error
    _met = Ranks(number, size, prefixed(store, f"git_caption/{os.environ.get(ATTEMPT, '0')}/{size}"))


@contextmanager
def together() -> Iterator[None]:
    """Inside, the processes of a run that are by themselves else have met; it is done once in a run.

    Raises as `meet`.
    """
    global _met
    if _met is not None:
        yield
        return
    meet()
    yield
    if _met is not None:
        _met.part()
        _met = None


def end(code: int, message: str, show: Callable[[str], None]) -> int:
    """End this process as all processes of the run end: with the first failure of any, which rank 0 shows.

    Args:
        code: the exit code that this one would end with.
        message: why, if it failed.
        show: prints a message.

    Returns:
        The exit code.
    """
    try:
        if code:
            meet(END_SECONDS)  # one that fails before they met may be the only one
    except UsageError:  # the environment is wrong, which each of them finds
        with suppress(UsageError):
            message = "" if rank() else message
    except JobFailed:
        pass
    if _met is not None:
        return _met.end(code, message, show)
    if message:
        show(message)
    return code


@contextmanager
def rank_0_first() -> Iterator[None]:
    """The block runs on rank 0 and then on the others at once: what it leaves on the disk is there for them."""
    if _met is None:
        yield
        return
    board = _met.board()
    while _met.rank and not board.check(["done"]):
        time.sleep(POLL_SECONDS)
    yield
    if _met.rank == 0:
        board.set("done", "")


def own_device(name: str) -> str:
    """The device of that name for this process: where several processes met, `auto` and `cuda` are a GPU of its own.

    Where a launcher lets each process see its own GPU only, that is the one.
    """
    if met() is None or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{local_rank() % count}" if count else name
