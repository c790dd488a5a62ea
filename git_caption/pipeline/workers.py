"""Worker processes that read and decode rows ahead of the model, in order."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from git_caption.errors import JobFailed
from git_caption.samples.sample import Failure

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

SLICE_ROWS = 8
CHUNKS_AHEAD = 2
POLL_SECONDS = 0.2
HANG_SECONDS = 300.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is Slurm's early warning


class RowSource(Protocol[Item_co]):
    """Where rows come from. `read` runs in worker processes: the source is picklable and light to import."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, row: int) -> Item_co | Failure:
        """One row. Raises a GitCaptionError only for what is wrong with the whole source."""


class _Worker(Generic[Item]):
    """What one worker process holds; `source` is unpacked by the first task, so that an error in it is reported."""

    packed: bytes
    hang_seconds: float
    source: RowSource[Item] | None = None


_worker: _Worker[object] = _Worker()


def _start(packed: bytes, leash: Connection, hang_seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    _worker.packed, _worker.hang_seconds = packed, hang_seconds

    def end_with_the_main_process() -> None:
        leash.poll(None)  # ready when its other end closes: the main process let go of us, or died in any way
        os._exit(1)

    threading.Thread(target=end_with_the_main_process, daemon=True).start()


def _read(rows: range) -> list[object]:
    # A watchdog in C, so that it also ends a worker that hangs inside an image library.
    faulthandler.dump_traceback_later(_worker.hang_seconds, exit=True)
    try:
        if _worker.source is None:
            _worker.source = pickle.loads(_worker.packed)
        return [_worker.source.read(row) for row in rows]
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def signals_held() -> Iterator[None]:
    """Processes started inside begin with the stopping signals held back, until they know what to do with them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def read_chunks(
    source: RowSource[Item],
    chunks: Iterable[int | None],
    rows_of: Callable[[int], range],
    num_workers: int,
    *,
    check: Callable[[], None] = lambda: None,
    hang_seconds: float = HANG_SECONDS,
) -> Generator[tuple[int, list[Item | Failure]]]:
    """Chunk numbers, as `chunks` gives them, with their rows in order; two chunks are read ahead.

    `chunks` may give None where there is no more for now: it is asked again after the next chunk that was read.
    With `num_workers` 0 rows are read here, when asked for. Close the generator to end the workers early.
    check: called again and again while rows are waited for; what it raises ends the reading.
    Raises JobFailed if a worker dies, or hangs for `hang_seconds` on a few rows, and what `source.read` raises.
    """
    if num_workers == 0:
        for number in chunks:
            here: list[Item | Failure] = []
            if number is None:
                continue
            for row in rows_of(number):
                check()
                here.append(source.read(row))
            yield number, here
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy threads and CUDA state in mid-air
    leash, leash_end = context.Pipe(duplex=False)
    with signals_held():  # Python's own process for semaphores starts here, and would die of SIGUSR1
        pool = ProcessPoolExecutor(
            num_workers, context, initializer=_start, initargs=(pickle.dumps(source), leash, hang_seconds)
        )
    window: deque[tuple[int, list[tuple[range, Future[list[object]]]]]] = deque()
    numbers = iter(chunks)
    try:
        while True:
            while len(window) <= CHUNKS_AHEAD and (ahead := next(numbers, None)) is not None:
                with signals_held():
                    window.append((ahead, [(rows, _submitted(pool, rows)) for rows in _slices(rows_of(ahead))]))
            if not window:
                break
            number, slices = window.popleft()
            items: list[Item | Failure] = []
            for rows, future in slices:
                while not wait([future], POLL_SECONDS).done:
                    check()
                items += _result(future, rows, source, hang_seconds)
            yield number, items
    except BaseException:
        leash_end.close()  # ends the workers now, whatever they are doing
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        leash_end.close()
        leash.close()


def _slices(rows: range) -> list[range]:
    return [rows[start : start + SLICE_ROWS] for start in range(0, len(rows), SLICE_ROWS)]


def _submitted(pool: ProcessPoolExecutor, rows: range) -> Future[list[object]]:
    try:
        return pool.submit(_read, rows)
    except BrokenProcessPool as error:  # told when these rows are asked for: earlier ones may be there already
        future: Future[list[object]] = Future()
        future.set_exception(error)
        return future


def _result(
    future: Future[list[object]], rows: range, source: RowSource[Item], hang_seconds: float
) -> list[Item | Failure]:
    try:
        return future.result()  # type: ignore[return-value]
    except BrokenProcessPool as error:
        time.sleep(0.2)  # where a signal was sent to all our processes, let our own arrive and be the reason
        raise JobFailed(
            f"a decoding process died, or hung for {hang_seconds:g} s, at or soon after row {rows[0] + 1} of "
            f"{', '.join(map(str, source.inputs))} (out of memory, or an image library crashed); committed chunks are "
            "kept: run the same command again, with fewer 'num_workers' if memory is short"
        ) from error
