"""Rows of a TSV and its companions that are good enough: by score, length, expression, or for the first time."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from git_caption.errors import DataError
from git_caption.params.tsv_names import CAPTIONS
from git_caption.samples.checked import digest
from git_caption.samples.sample import Failure
from git_caption.samples.tsv_set import TsvSet
from git_caption.tsv.rows import dumps, parse_caption_row

Unique = Literal["key", "image", "caption"]


@dataclass(frozen=True)
class Bounds:
    """What a caption has to be."""

    score: str
    min_score: float | None = None
    max_score: float | None = None
    min_words: int | None = None
    max_words: int | None = None
    match: str | None = None
    no_match: str | None = None

    def fault(self, entry: dict[str, Any]) -> str | None:
        """Why a caption with all that stands beside it is dropped; None where it is good."""
        caption, score = str(entry["caption"]), entry.get(self.score)
        if self.min_score is not None or self.max_score is not None:
            if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score):
                return f"no {self.score}"
            if self.min_score is not None and score < self.min_score:
                return f"{self.score} too low"
            if self.max_score is not None and score > self.max_score:
                return f"{self.score} too high"
        words = len(caption.split())
        if self.min_words is not None and words < self.min_words:
            return "too short"
        if self.max_words is not None and words > self.max_words:
            return "too long"
        if self.match is not None and not re.search(self.match, caption):
            return "no match"
        if self.no_match is not None and re.search(self.no_match, caption):
            return "match of no_match"
        return None


class FilteredRows:
    """The rows of a set that pass; of their captions those that pass. What is dropped is a Failure without lines.

    captions: whether captions are judged, which the set has to have then.
    unique: what has to come for the first time, among what passes the bounds. It takes a first pass over the rows, and
    8 bytes for each of these.
    Raises DataError if the set has no captions to judge.
    """

    def __init__(self, rows: TsvSet, bounds: Bounds, unique: Unique | None, captions: bool) -> None:
        self.rows = rows
        self.bounds = bounds
        self.unique = unique
        self.place = self._caption_file() if captions else None
        self._firsts: np.ndarray[Any, Any] | None = None
        if unique is not None:
            seen, begins = array("Q"), array("q")
            for row in range(len(rows)):
                begins.append(len(seen))
                seen.extend(self._digests(row))
            _, first = np.unique(np.frombuffer(seen, dtype=np.uint64), return_index=True)
            self._firsts = np.zeros(len(seen), dtype=bool)
            self._firsts[first] = True
            self._begins = np.frombuffer(begins, dtype=np.int64)

    def _caption_file(self) -> int:
        """Which of the set's files holds captions: a companion, or a caption TSV that stands alone."""
        if CAPTIONS in self.rows.endings:
            return 1 + self.rows.endings.index(CAPTIONS)
        if len(self.rows.files) == 1:
            return 0
        raise DataError(f"{self.rows.inputs[0]}: no captions beside it to judge")

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files."""
        return self.rows.inputs

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> tuple[bytes, ...] | Failure:
        """The lines of a row, or why it is dropped. Raises DataError if the files do not belong together."""
        lines = self.rows.lines(row)
        key = lines[0].partition(b"\t")[0].decode("utf-8", "replace")
        try:
            if self.place is None:
                dropped = None if self._is_first(row, 0) else f"same {self.unique} as before"
                return lines if dropped is None else Failure(key, dropped, ())
            entries, kept, dropped = self._captions(row), [], "no caption"
            place = 0
            for entry in entries:
                fault = self.bounds.fault(entry)
                if fault is None:
                    if self._is_first(row, place):
                        kept.append(entry)
                    else:
                        fault = f"same {self.unique} as before"
                    place += self.unique == "caption"
                dropped = fault or dropped
        except DataError as error:
            return Failure(key, f"no usable texts: {error}", ())
        if not kept:
            return Failure(key, dropped, ())
        if len(kept) == len(entries):
            return lines
        try:
            line = lines[self.place].partition(b"\t")[0] + b"\t" + dumps(kept).encode()
        except ValueError:  # Python reads NaN as JSON
            where = self.rows.files[self.place].where(row)
            return Failure(key, f"no usable texts: {where}: NaN or Infinity beside a caption, which is no JSON", ())
        return (*lines[: self.place], line, *lines[self.place + 1 :])

    def _captions(self, row: int) -> list[dict[str, Any]]:
        assert self.place is not None
        file = self.rows.files[self.place]
        columns = file.columns(row)
        parse_caption_row(columns, file.where(row))
        found: list[dict[str, Any]] = json.loads(columns[1])
        return found

    def _digests(self, row: int) -> Iterator[int]:
        """What tells whether the row, or each of its captions that is good, came before."""
        try:
            good = [e for e in self._captions(row) if self.bounds.fault(e) is None] if self.place is not None else [{}]
        except DataError:
            return
        if self.unique == "caption":
            yield from (digest(entry["caption"].encode("utf-8", "surrogatepass")) for entry in good)
        elif good:
            key, _, image = self.rows.files[0].raw(row).partition(b"\t")
            yield digest(key if self.unique == "key" else image)

    def _is_first(self, row: int, place: int) -> bool:
        return self._firsts is None or bool(self._firsts[self._begins[row] + place])
