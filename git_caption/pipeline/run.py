"""Rows in, ordered rows out: what every job that turns rows into rows runs on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from git_caption.errors import DataError, JobFailed, Stopped, UsageError
from git_caption.pipeline.chunks import CHUNK_ROWS, FailedRow, Parts, opened
from git_caption.pipeline.workers import RowSource, read_chunks
from git_caption.samples.sample import Failure

Item = TypeVar("Item")
Lines = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Summary:
    """What a run did. `errors_path` is None where no row failed; `halved` counts batches too large for the memory."""

    out: Path
    rows: int
    lines: int
    skipped: int
    chunks: int
    resumed_chunks: int
    seconds: float
    errors_path: Path | None
    halved: int = 0

    def __str__(self) -> str:
        parts = [f"{self.out}: {self.rows} rows, {self.lines} lines, {self.seconds:.1f} s"]
        if self.resumed_chunks:
            parts.append(f"{self.resumed_chunks} of {self.chunks} chunks from an earlier run")
        if self.errors_path is not None:
            parts.append(f"{self.skipped} rows skipped, listed in {self.errors_path}")
        if self.halved:
            parts.append(f"{self.halved} batches halved for lack of memory")
        return "; ".join(parts)


def run(
    source: RowSource[Item],
    compute: Callable[[list[Item]], Sequence[Lines | Failure]],
    out: str | Path,
    settings: Mapping[str, Any],
    *,
    num_workers: int,
    on_error: Literal["skip", "raise"] = "skip",
    max_errors: int | None = None,
    resume: bool = True,
) -> Summary:
    """Writes `out`: the lines of every row of `source`, in the order of the rows.

    compute: takes the good rows of a chunk (256 rows), in order; gives for each its lines, or a Failure. It must depend
    on nothing else, so that a chunk comes out the same in every run.
    settings: all that can change a byte of the output, as JSON can hold it: parameters and the weights' sha256. Not
    `num_workers`, `on_error`, `max_errors` or `resume`. Size and date of the source's inputs are added here.

    Raises DataError for a failed row if `on_error` is 'raise', JobFailed past `max_errors` failed rows (chunks computed
    until then are kept), Stopped on SIGINT or SIGTERM, and what `opened` and `read_chunks` raise.
    """
    started = time.monotonic()
    out = Path(out)
    for path in source.inputs:
        if out.exists() and out.samefile(path):
            raise UsageError(f"{out} is both input and output; expected another name for the output")
    fixed = {**settings, "inputs": [identity(path) for path in source.inputs], "chunk_rows": CHUNK_ROWS}
    with opened(out, len(source), fixed, resume=resume) as parts, _stoppable(parts) as stopping:
        resumed = len(parts.committed)
        _judge(parts, parts.failures, on_error, max_errors)
        missing = (number for number in range(len(parts)) if number not in parts.committed)
        done = sum(len(parts.rows_of(number)) for number in parts.committed)
        chunks = read_chunks(source, missing, parts.rows_of, num_workers, check=stopping.check)
        with closing(chunks), tqdm(total=len(source), initial=done, unit="row", disable=None) as progress:
            for number, items in chunks:
                with stopping.at_once():
                    lines, failures = _computed(items, parts.rows_of(number), compute, on_error)
                parts.commit(number, lines, failures)
                _judge(parts, failures, on_error, max_errors)
                progress.update(len(items))
            stopping.check()
        lines_written = parts.join()
        parts.remove()
    return Summary(
        out=out,
        rows=len(source),
        lines=lines_written,
        skipped=len(parts.failures),
        chunks=len(parts),
        resumed_chunks=resumed,
        seconds=time.monotonic() - started,
        errors_path=parts.errors_path if parts.failures else None,
    )


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from another one, and from itself after a change."""
    status = path.stat()
    return {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _computed(
    items: list[Item | Failure],
    rows: range,
    compute: Callable[[list[Item]], Sequence[Lines | Failure]],
    on_error: Literal["skip", "raise"],
) -> tuple[list[Sequence[str]], list[FailedRow]]:
    """The lines of a chunk, and the rows of it that failed."""
    if on_error == "raise":  # before the costly part
        _raise_first(_failed(items, rows))
    good = [item for item in items if not isinstance(item, Failure)]
    computed = list(compute(good)) if good else []
    assert len(computed) == len(good), f"compute gave {len(computed)} results for {len(good)} rows"
    following = iter(computed)
    outcomes = [item if isinstance(item, Failure) else next(following) for item in items]
    lines = [
        columns for outcome in outcomes for columns in (outcome.lines if isinstance(outcome, Failure) else outcome)
    ]
    return lines, _failed(outcomes, rows)


def _failed(outcomes: Sequence[object], rows: range) -> list[FailedRow]:
    return [
        FailedRow(row, outcome.key, outcome.reason)
        for row, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome, Failure)
    ]


def _raise_first(failures: Sequence[FailedRow]) -> None:
    if failures:
        first = min(failures, key=lambda failure: failure.row)
        raise DataError(f"{first.cause} (row {first.row + 1}, key {first.key!r})")


def _judge(
    parts: Parts, fresh: Sequence[FailedRow], on_error: Literal["skip", "raise"], max_errors: int | None
) -> None:
    if on_error == "raise":
        _raise_first(fresh)
    if max_errors is not None and len(parts.failures) > max_errors:
        first = min(parts.failures, key=lambda failure: failure.row)
        raise JobFailed(
            f"{len(parts.failures)} rows could not be processed, 'max_errors' allows {max_errors}; the first is row "
            f"{first.row + 1}, key {first.key!r}: {first.cause}; {parts.kept()}: run again with a higher 'max_errors' "
            "to go on"
        )


class _Signalled(BaseException):
    """Raised because a signal came; no library catches it on the way out."""


class _Stopping:
    """The signal that came, if one did.

    It is raised at once while a chunk is computed, which may take minutes, and by `check` elsewhere: raised at any
    instruction it could leave a lock of the process pool held, and ending the pool would wait for that lock for ever.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._at_once = False

    def handle(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if self._at_once:
            self._at_once = False
            raise _Signalled

    def check(self) -> None:
        """Raises if a signal came."""
        if self.name is not None:
            raise _Signalled

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal is raised wherever it finds the main thread."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False


@contextmanager
def _stoppable(parts: Parts) -> Iterator[_Stopping]:
    """Inside, SIGINT and SIGTERM raise Stopped; handlers can be set in the main thread only."""
    stopping = _Stopping()
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        earlier = {number: signal.signal(number, stopping.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    except (_Signalled, JobFailed) as error:
        if stopping.name is None:
            raise
        raise Stopped(f"stopped by {stopping.name}; {parts.kept()}: run the same command again to go on") from error
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
