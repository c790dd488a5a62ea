"""What jobs that turn rows into rows without a model share: keys about the rows, and the TSVs that they write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from git_caption.params.running import RunningParams
from git_caption.params.schema import group, key
from git_caption.params.tsv_names import CAPTIONS, QUESTIONS, TSV, companions, stem

Fault = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class RowsParams:
    """Keys about rows."""

    num_workers: int | None = key(None, minimum=0, help="processes that read rows; None: the cores less one, at most 4")
    on_error: Literal["skip", "raise"] = key(
        "skip", help="a row that cannot be used: skip leaves it out and lists it in OUT.errors.tsv, raise ends the job"
    )
    max_errors: int | None = key(None, minimum=0, help="the job fails past so many rows left out; None: no bound")
    resume: bool = key(True, help="go on from what a stopped run of the same command left")

    @property
    def workers(self) -> int:
        """`num_workers`, with None settled for this machine."""
        return RunningParams(num_workers=self.num_workers).workers


@dataclass(frozen=True, kw_only=True)
class TsvWritingParams:
    """Of jobs that write a TSV, `out_tsv`, or several, `out_tsvs`, with companions; they may read `tsv` or `tsvs`."""

    rows: RowsParams = group(RowsParams, "rows")

    @property
    def tsvs_written(self) -> tuple[str, ...]:
        """The TSVs."""
        return _paths(self, "out_tsv", "out_tsvs")

    @property
    def also_written(self) -> tuple[str, ...]:
        """What may be written beside them."""
        return tuple(stem(name) + kind for name in self.tsvs_written for kind in (CAPTIONS, QUESTIONS))

    def check(self) -> Iterator[Fault]:
        """Names that are none of a TSV, of a file that is read, or of one that is written already."""
        name = "out_tsvs" if hasattr(self, "out_tsvs") else "out_tsv"
        for path in self.tsvs_written:
            if not path.endswith(TSV):
                yield (name,), f"{name!r}: expected the name of a TSV, as NAME.img.tsv, found {path!r}"
        read = {os.path.realpath(path): path for tsv in _paths(self, "tsv", "tsvs") for path in (tsv, *companions(tsv))}
        for path in (*self.tsvs_written, *self.also_written):
            if (input_path := read.get(os.path.realpath(path))) is not None:
                yield (name,), f"{name!r}: {input_path!r} is read too, which it would overwrite"
        stems = [os.path.realpath(stem(path)) for path in self.tsvs_written]
        if len(set(stems)) < len(stems):
            yield (name,), f"{name!r}: a name comes twice, or two would have the same companions"


def _paths(params: Any, *names: str) -> tuple[str, ...]:
    """The paths under those of the names that there are."""
    values = [getattr(params, name, None) for name in names]
    return tuple(path for value in values if value for path in ((value,) if isinstance(value, str) else value))
