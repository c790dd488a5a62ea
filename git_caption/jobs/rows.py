"""What the jobs that turn rows into rows without a model share: how they are run, and what they say at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.params import tsv_names
from git_caption.params.rows import RowsParams
from git_caption.pipeline.chunks import PartFormat
from git_caption.pipeline.run import Summary, run
from git_caption.pipeline.workers import RowSource
from git_caption.samples.tsv_set import TsvSet


def opened(tsv: str) -> TsvSet:
    """A TSV with its companions. Raises as `TsvSet`."""
    with processes.rank_0_first():  # it writes the index
        return TsvSet(tsv)


def write(
    source: RowSource[Any],
    form: PartFormat,
    out: str,
    settings: Mapping[str, Any],
    running: RowsParams,
    *,
    chunk_rows: int,
    files: Callable[[], tuple[Path, ...]],
    in_workers: bool = True,
    some_good: bool = True,
) -> Summary:
    """Write what each row gives, as it is given, and print what came of it.

    files: those that were written, asked for at the end. in_workers: whether rows are read in processes of their own.
    some_good: as `run` takes it. Raises as `run`.
    """
    summary = run(
        source,
        lambda given: given,
        out,
        settings,
        form=form,
        num_workers=running.workers if in_workers else 0,
        on_error=running.on_error,
        max_errors=running.max_errors,
        resume=running.resume,
        chunk_rows=chunk_rows,
        some_good=some_good,
    )
    if processes.rank() == 0:
        _tell(summary, files())
    return summary


def _tell(summary: Summary, files: tuple[Path, ...]) -> None:
    """Print what was written, what was left out and why, and which TSVs of an earlier run lie beside."""
    names = [str(file) for file in files] or ["nothing"]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
    print(f"{shown}: {summary.lines} of {summary.rows} rows, {summary.seconds:.1f} s")
    if summary.resumed_chunks:
        print(f"{summary.resumed_chunks} of {summary.chunks} chunks from an earlier run")
    if summary.errors_path is not None:
        counts = ", ".join(f"{count} {cause}" for cause, count in _causes(summary.errors_path))
        print(f"left out: {counts}, listed in {summary.errors_path}")
    for path in (summary.out, *map(Path, tsv_names.companions(str(summary.out)))):
        if path.suffix == tsv_names.TSV and path.exists() and path not in files:
            print(f"{path} was there before and is not of these rows: remove it", file=sys.stderr)


def _causes(errors: Path) -> list[tuple[str, int]]:
    """What rows were left out for, with their numbers, the most first."""
    with open(errors, encoding="utf-8", newline="\n") as file:
        return Counter(line.rstrip("\n").split("\t")[2].partition(":")[0] for line in file).most_common()
