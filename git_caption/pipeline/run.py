"""Rows in, ordered rows out: what every job that turns rows into rows runs on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from git_caption import processes
from git_caption.errors import DataError, JobFailed, Stopped, UsageError
from git_caption.pipeline.chunks import CHUNK_ROWS, FailedRow, PartFormat, Parts, opened
from git_caption.pipeline.shares import Claimed, Share, Whole
from git_caption.pipeline.tsv_parts import TSV
from git_caption.pipeline.workers import STOPPING, RowSource, read_chunks
from git_caption.samples.inputs import identity
from git_caption.samples.sample import Failure

Item = TypeVar("Item")


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
    computed: tuple[int, ...] = ()  # rows of each process, where there are several

    def __str__(self) -> str:
        parts = [f"{self.out}: {self.rows} rows, {self.lines} lines, {self.seconds:.1f} s"]
        if self.resumed_chunks:
            parts.append(f"{self.resumed_chunks} of {self.chunks} chunks from an earlier run")
        if self.errors_path is not None:
            parts.append(f"{self.skipped} rows skipped, listed in {self.errors_path}")
        if self.halved:
            parts.append(f"{self.halved} batches halved for lack of memory")
        if self.computed:
            each = ", ".join(f"rank {rank} {rows / self.seconds:.1f}" for rank, rows in enumerate(self.computed))
            parts.append(f"{sum(self.computed) / self.seconds:.1f} rows/s ({each})")
        return "; ".join(parts)


def run(
    source: RowSource[Item],
    compute: Callable[[list[Item]], Sequence[Any]],
    out: str | Path,
    settings: Mapping[str, Any],
    *,
    form: PartFormat = TSV,
    num_workers: int,
    on_error: Literal["skip", "raise"] = "skip",
    max_errors: int | None = None,
    resume: bool = True,
    some_good: bool = False,
    halved: Callable[[], int] = lambda: 0,
    chunk_rows: int = CHUNK_ROWS,
) -> Summary:
    """Writes `out`: what every row of `source` gives, in the order of the rows.

    compute: takes the good rows of a chunk (of `chunk_rows`), in order; gives for each what `form` writes (its lines),
    or a Failure. It must depend on nothing else, so that a chunk comes out the same in every run.
    settings: all that can change a byte of the output, as JSON can hold it: parameters and the weights' sha256. Not
    `num_workers`, `on_error`, `max_errors` or `resume`. Size and date of the source's inputs are added here.
    some_good: whether the run fails, and leaves an older output as it is, where rows failed and no line is left.
    halved: tells how many batches were halved so far.

    Where several processes have met (`processes.meet`) each of them calls this and computes a share of the chunks; rank
    0 joins them, and all return what became of the whole.

    Raises DataError for a failed row if `on_error` is 'raise', JobFailed past `max_errors` failed rows (chunks computed
    until then are kept) or where `some_good` is asked for and none is, Stopped on a stopping signal, and what `opened`
    and `read_chunks` raise.
    """
    started = time.monotonic()
    ranks = processes.met()
    out = Path(out)
    for path in source.inputs:
        if out.exists() and out.samefile(path):
            raise UsageError(f"{out} is both input and output; expected another name for the output")
    made_from = {**settings, "inputs": [identity(path) for path in source.inputs], "chunk_rows": chunk_rows}
    parts_held = (
        opened(out, len(source), made_from, form, resume=resume, chunk_rows=chunk_rows)
        if ranks is None or ranks.rank == 0
        else nullcontext(Parts(out, len(source), form, chunk_rows))
    )
    with parts_held as parts, _stoppable(parts) as stopping:
        resumed = len(parts.committed)
        _judge(parts, parts.failures, len(parts.failures), on_error, max_errors)
        share: Share = Whole(parts) if ranks is None else Claimed(parts, ranks, made_from, stopping.check)
        chunks = read_chunks(source, share.numbers(), parts.rows_of, num_workers, check=stopping.check)
        silent = None if ranks is None or ranks.rank == 0 else True
        before = 0 if silent else share.rows()  # it asks about every process
        with closing(chunks), tqdm(total=len(source), initial=before, unit="row", disable=silent) as progress:
            for number, items in chunks:
                if not share.begin(number):
                    continue
                with stopping.at_once():
                    outcomes, failures = _computed(items, parts.rows_of(number), compute, on_error)
                if not share.is_open():
                    break
                parts.commit(number, outcomes, failures)
                failed = share.committed(number, len(failures), halved())
                _judge(parts, failures, failed, on_error, max_errors)
                if not silent:
                    progress.update(share.rows() - progress.n)
            stopping.check()
        if (found := share.found_elsewhere()) is not None:
            return _heard(found)
        _judge(parts, parts.failures, len(parts.failures), on_error, max_errors)  # also those of processes that died
        lines_written = parts.join(some_good)
        summary = Summary(
            out=out,
            rows=len(source),
            lines=lines_written,
            skipped=len(parts.failures),
            chunks=len(parts),
            resumed_chunks=resumed,
            seconds=time.monotonic() - started,
            errors_path=parts.errors_path if parts.failures else None,
            halved=share.halved(),
            computed=share.computed(),
        )
        share.finish(_told(summary))  # before the parts go, which may be many: the others need not wait for that
        parts.remove()
    return summary


def _told(summary: Summary) -> dict[str, Any]:
    """A summary as JSON can hold it."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(summary).items()}


def _heard(told: Mapping[str, Any]) -> Summary:
    errors = told["errors_path"]
    paths = {"out": Path(told["out"]), "errors_path": None if errors is None else Path(errors)}
    return Summary(**{**told, **paths, "computed": tuple(told["computed"])})


def _computed(
    items: list[Item | Failure],
    rows: range,
    compute: Callable[[list[Item]], Sequence[Any]],
    on_error: Literal["skip", "raise"],
) -> tuple[list[Any], list[FailedRow]]:
    """What each row of a chunk gave, and those of them that failed."""
    if on_error == "raise":  # before the costly part
        _raise_first(_failed(items, rows))
    good = [item for item in items if not isinstance(item, Failure)]
    computed = list(compute(good)) if good else []
    assert len(computed) == len(good), f"compute gave {len(computed)} results for {len(good)} rows"
    following = iter(computed)
    outcomes = [item if isinstance(item, Failure) else next(following) for item in items]
    return outcomes, _failed(outcomes, rows)


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
    parts: Parts, fresh: Sequence[FailedRow], count: int, on_error: Literal["skip", "raise"], max_errors: int | None
) -> None:
    """count: the rows that failed so far, in all processes."""
    if on_error == "raise":
        _raise_first(fresh)
    if fresh and max_errors is not None and count > max_errors:
        first = min(parts.failures, key=lambda failure: failure.row)
        raise JobFailed(
            f"{count} rows could not be processed, 'max_errors' allows {max_errors}; the first is row "
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
    """Inside, STOPPING signals raise Stopped; handlers can be set in the main thread only."""
    stopping = _Stopping()
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        earlier = {number: signal.signal(number, stopping.handle) for number in STOPPING}
    try:
        yield stopping
    except (_Signalled, JobFailed) as error:
        if stopping.name is None:
            raise
        raise Stopped(f"stopped by {stopping.name}; {parts.kept()}: run the same command again to go on") from error
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
