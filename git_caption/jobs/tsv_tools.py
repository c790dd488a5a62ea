"""The jobs that rearrange TSV files: shuffle, split, merge, filter; companions go along, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from git_caption.errors import UsageError
from git_caption.jobs.rows import opened, write
from git_caption.params.rows import RowsParams
from git_caption.params.tsv_tools import FilterParams, MergeParams, ShuffleParams, SplitParams
from git_caption.pipeline.chunks import chunk_rows_of
from git_caption.pipeline.tsv_set_parts import TsvSetParts
from git_caption.pipeline.workers import RowSource
from git_caption.samples.filtered import Bounds, FilteredRows
from git_caption.samples.tsv_set import SelectedRows, TsvSet


def shuffle(params: ShuffleParams) -> None:
    """Write the rows in a random order, which the seed alone decides."""
    rows = opened(params.tsv)
    order = np.random.RandomState(params.seed).permutation(len(rows))  # numpy keeps its stream as it is for ever
    _rewrite(SelectedRows([rows], order), rows, params.out_tsv, {"seed": params.seed}, params.rows)


def split(params: SplitParams) -> None:
    """Write the rows into several TSVs, in their order."""
    rows = opened(params.tsv)
    begin = 0
    for out_tsv, size in zip(params.out_tsvs, sizes_of(params, len(rows)), strict=True):
        taken = range(begin, begin + size)
        _rewrite(SelectedRows([rows], taken), rows, out_tsv, {"rows": [taken.start, taken.stop]}, params.rows)
        begin += size


def merge(params: MergeParams) -> None:
    """Write the rows of several TSVs into one, in their order."""
    sets = [opened(tsv) for tsv in params.tsvs]
    everything = range(sum(map(len, sets)))
    _rewrite(SelectedRows(sets, everything), sets[0], params.out_tsv, {}, params.rows)


def filtered(params: FilterParams) -> None:
    """Write the rows that are good enough, and of their captions those that are."""
    rows = opened(params.tsv)
    names = ("score", "min_score", "max_score", "min_words", "max_words", "match", "no_match")
    bounds = {name: getattr(params, name) for name in names}
    source = FilteredRows(rows, Bounds(**bounds), params.unique, params.judges_captions)
    _rewrite(source, rows, params.out_tsv, {**bounds, "unique": params.unique}, params.rows)


def sizes_of(params: SplitParams, rows: int) -> list[int]:
    """How many rows each TSV gets. Raises UsageError if they are not those that there are."""
    count = len(params.out_tsvs)
    given = params.sizes or (1 / count,) * count
    sizes: list[int | None] = []
    share = 0.0  # of the fractions so far: their sum is rounded, so that they never make more rows than there are
    for size in given:
        if size is None or size >= 1:
            sizes.append(None if size is None else int(size))
        else:
            sizes.append(round((share + size) * rows) - round(share * rows))
            share += size
    rest = rows - sum(size for size in sizes if size is not None)
    if rest < 0 or (rest and None not in sizes):
        raise UsageError(f"'sizes': they make {rows - rest} rows, and {params.tsv} has {rows}; give None for the rest")
    return [rest if size is None else size for size in sizes]


def _rewrite(
    source: RowSource[Any], like: TsvSet, out_tsv: str, settings: Mapping[str, Any], running: RowsParams
) -> None:
    """Write rows into `out_tsv` and the companions that the set `like` has."""
    files = like.outputs(out_tsv)
    chunk_rows = chunk_rows_of(like.size, len(like))
    # Lines are handed on as they are: another process would cost more than it saves.
    write(
        source,
        TsvSetParts(files),
        out_tsv,
        settings,
        running,
        chunk_rows=chunk_rows,
        files=lambda: files,
        in_workers=False,
        some_good=False,  # rows that are dropped were asked to be
    )
