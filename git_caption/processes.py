"""Which process of how many this one is, and what several processes share.

The only reader of what launchers put into the environment. One process by itself needs no torch and opens no socket.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol

from git_caption.errors import JobFailed, UsageError, reason

# Rank and size as torchrun, srun, Open MPI and MPICH give them; the first pair that is there counts. Not SLURM_NTASKS,
# which an sbatch script also has where it runs as a single process.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
OF_JOBS = (
    *("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST", "SLURM_JOB_GPUS"),
    *("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE", "SLURM_MEM_PER_NODE"),
    *("SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_LAUNCH_NODE_IPADDR", "SLURMD_NODENAME"),
    *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
)
PLACE = ("MASTER_ADDR", "MASTER_PORT")  # where the first process can be met
STEP_PORTS = range(20_000, 32_000)  # below those that Linux gives to whoever asks for any
STEPS_OF_A_JOB = 8  # that run at a time with ports of their own
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"  # torchrun's store outlives the processes of an attempt

ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
ARRAY_STEP = "SLURM_ARRAY_TASK_STEP"

MEET_SECONDS = 600.0  # between the start of the first process and of the last
BEAT_SECONDS = 1.0
DEAD_SECONDS = 45.0  # without a beat
END_SECONDS = 30.0  # that processes wait for one another once one has failed
POLL_SECONDS = 0.1


def rank() -> int:
    """This process's number, from 0."""
    return _rank_and_size()[0]


def world_size() -> int:
    """Number of processes of the run; 1 where no launcher says otherwise."""
    return _rank_and_size()[1]


def part() -> tuple[int, int]:
    """Which part of work that needs no word between processes is this one's, and of how many.

    The tasks of a Slurm array share it, and in each of them the processes that a launcher started.

    Raises:
        UsageError: the numbers of the array's tasks do not tell the parts.
    """
    number, size = _rank_and_size()
    texts = [os.environ.get(name) for name in ARRAY]
    if None in texts:
        return number, size
    task, first, count = (int(str(text)) for text in texts)
    task = (task - first) // int(os.environ.get(ARRAY_STEP, "1"))
    if not 0 <= task < count:
        raise UsageError(
            f"the environment has {ARRAY[0]}={texts[0]} of {count} tasks, whose numbers are not evenly spaced: "
            "name the part as 'shard'"
        )
    return task * size + number, count * size


def require_one(program: str) -> None:
    """Refuse to be one of several processes, which would all do the same work.

    Raises:
        UsageError: a launcher started more than one.
    """
    if world_size() > 1:
        raise UsageError(f"{program} runs as one process, and a launcher started {world_size()} of it: start one")


def as_torchrun() -> None:
    """Put what another launcher said into the environment as torchrun does, for torch reads it there.

    Where nothing says where the first process can be met, Slurm's variables do.

    Raises:
        UsageError: there are several processes, and nothing says where the first one can be met.
    """
    number, size = _rank_and_size()
    if size == 1:
        return
    for name, value in _slurm_place().items():
        os.environ.setdefault(name, value)
    if missing := [name for name in PLACE if not os.environ.get(name)]:
        raise UsageError(
            f"{size} processes were started without {' and '.join(missing)}: set the first one's host and a free port, "
            "or start them with torchrun"
        )
    os.environ.update(RANK=str(number), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank()))


def _slurm_place() -> dict[str, str]:
    """PLACE by Slurm's variables: the first host of the step, and a port that no other step has; nothing without Slurm.

    SLURM_LAUNCH_NODE_IPADDR, where srun runs, is that of the first host in a batch script only: it stands in where
    the host's name means nothing to the network.
    """
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    job, step = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_STEP_ID", "0")
    if not hosts or not job.isdecimal() or not step.isdecimal():
        return {}
    port = STEP_PORTS[(int(job) * STEPS_OF_A_JOB + int(step)) % len(STEP_PORTS)]
    if os.environ.get("SLURM_STEP_NUM_NODES") == "1":
        host = "127.0.0.1"
    elif not _has_address(host := first_host(hosts)):
        host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", host)
    return {"MASTER_ADDR": host, "MASTER_PORT": str(port)}


def first_host(hosts: str) -> str:
    """The first name of a list as Slurm writes it: `gpu[07-09,12],login` begins with `gpu07`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)  # to the first comma that is not in brackets
    assert first is not None, "it matches nothing at least"
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def launched_with() -> dict[str, str]:
    """What launchers put into the environment, as far as it says which process this is and what it may use."""
    own = {*PLACE, *LOCAL_RANKS, *(name for names in LAUNCHERS for name in names), ATTEMPT, *OF_JOBS}
    return {name: os.environ[name] for name in sorted(own & os.environ.keys())}


def local_rank() -> int:
    """This process's number among those of its machine, from 0."""
    return int(next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), "0"))


def own_device(name: str) -> str:
    """The device of that name for this process: where several processes met, `auto` and `cuda` are a GPU of its own.

    Where a launcher lets each process see its own GPU only, that is the one.
    """
    if met() is None or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{local_rank() % count}" if count else name


class Store(Protocol):
    """What is used of torch.distributed's stores; each call is one step for all processes."""

    def set(self, key: str, value: str) -> None:
        """Put a value there."""

    def get(self, key: str) -> bytes:
        """The value, once it is there."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values, once they are there."""

    def check(self, keys: list[str]) -> bool:
        """Whether the keys are there."""

    def add(self, key: str, value: int) -> int:
        """The sum after adding to a number, which begins with 0."""

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Put a value in place of the one expected, "" for none."""

    def delete_key(self, key: str) -> bool:
        """Whether there was one to remove."""


class Ranks:
    """The processes of a run, met in one store: that of torchrun's agent, else one that rank 0 holds.

    A thread shows every `BEAT_SECONDS` that this process lives. Once another one failed, or the store is gone, it stops
    this one as SIGTERM does; `end` then knows why. On rank 0 it also looks for processes that died.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._boards = 0
        self._trouble: tuple[int, str] | None = None  # exit code and message of what ends all processes
        self._lost = False
        self._over = threading.Event()
        if rank == 0:
            store.set("dead", "[]")
        store.add(f"beat/{rank}", 1)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def board(self) -> Store:
        """A store for the next thing that all processes do together; the same one on all of them."""
        self._boards += 1
        return _part_of(self._store, f"board/{self._boards}")

    def dead(self) -> set[int]:
        """Which processes show no life; one that was held up may come back."""
        return set(json.loads(self._store.get("dead")))

    def announce(self) -> None:
        """Change `news`."""
        self._store.add("news", 1)

    def news(self) -> int:
        """A number that grows with each announcement and each change of `dead`."""
        return self._store.add("news", 0)

    def end(self, code: int, message: str, show: Callable[[str], None]) -> int:
        """End together: see the function `end`."""
        try:
            if code and self._trouble is None:
                self._store.compare_set("failed", "", json.dumps([code, message]))
        except RuntimeError:
            self._lose()
        code, message = self._trouble or (code, message)
        if message and (self.rank == 0 or self._lost or not self._told()):
            show(message)
        with suppress(RuntimeError):  # gone meanwhile: all has been said
            if self.rank == 0:
                self._store.set("told", "")
                self._see_off(code)
            else:
                self._rest()
                self._store.set(f"left/{self.rank}", "")
        self._rest()
        return code

    def part(self) -> None:
        """Each goes on by itself; nothing shows any longer that this process lives."""
        self._rest()

    def _told(self) -> bool:
        """Whether rank 0 has shown the failure that it knows of."""
        latest = time.monotonic() + END_SECONDS
        with suppress(RuntimeError):
            while not self._store.check(["told"]):
                if time.monotonic() > latest:
                    return False
                time.sleep(POLL_SECONDS)
        return True

    def _see_off(self, code: int) -> None:
        """Wait for the others, as the store may end with this process; after a failure not for long."""
        latest = time.monotonic() + END_SECONDS
        for number in range(1, self.size):
            while not self._store.check([f"left/{number}"]) and number not in self.dead():
                if code and time.monotonic() > latest:
                    return
                time.sleep(POLL_SECONDS)

    def _rest(self) -> None:
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        beats: dict[int, tuple[int, float]] = {}
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(f"beat/{self.rank}", 1)
                if self._trouble is None and self._store.check(["failed"]):
                    code, message = json.loads(self._store.get("failed"))
                    self._trouble = code, message
                    _stop_main_thread()
                if self.rank == 0:
                    self._look_for_dead(beats)
            except RuntimeError:
                self._lose()
                _stop_main_thread()
                return

    def _lose(self) -> None:
        if self._trouble is None:
            self._lost = True
            self._trouble = (
                1,
                f"rank {self.rank} of {self.size} lost the others, for rank 0 has ended, or the torchrun that started "
                "it; committed chunks are kept: run the same command again to go on",
            )

    def _look_for_dead(self, beats: dict[int, tuple[int, float]]) -> None:
        """beats: the last new one of each process, and when it was seen."""
        now = time.monotonic()
        for number in range(self.size):
            beat = self._store.add(f"beat/{number}", 0)
            if beat != beats.get(number, (-1, now))[0]:
                beats[number] = beat, now
        found = {number for number, (_, seen) in beats.items() if now - seen > DEAD_SECONDS}
        if found != self.dead():
            self._store.set("dead", json.dumps(sorted(found)))
            self.announce()


def _stop_main_thread() -> None:
    """SIGTERM, also in the middle of a system call; where nothing handles it the command has ended by itself."""
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


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
    _met = Ranks(number, size, _part_of(store, f"git_caption/{os.environ.get(ATTEMPT, '0')}/{size}"))


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


def _part_of(store: Any, name: str) -> Store:
    from torch.distributed.distributed_c10d import PrefixStore

    part: Store = PrefixStore(name, store)
    return part


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


def _rank_and_size() -> tuple[int, int]:
    for names in LAUNCHERS:
        texts = [os.environ.get(name) for name in names]
        if None in texts:
            continue
        try:
            number, size = (int(str(text)) for text in texts)
        except ValueError:
            number, size = -1, 0
        if not 0 <= number < size:
            raise UsageError(
                f"the environment has {names[0]}={texts[0]} and {names[1]}={texts[1]}; expected a rank from 0 to one "
                "less than the size"
            )
        return number, size
    return 0, 1
