"""Rows of an image TSV and its companions taken apart, to be stored in another format and to come back as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from git_caption.errors import DataError
from git_caption.params.tsv_names import CAPTIONS, QUESTIONS
from git_caption.samples.sample import Failure
from git_caption.samples.tsv_set import TsvSet
from git_caption.tsv.rows import parse_caption_row, parse_image_row

NAMES = {CAPTIONS: "captions", QUESTIONS: "questions"}


@dataclass(frozen=True)
class StoredRow:
    """A row: its number from 0, key and image file; the second columns of caption and question TSV as they stand."""

    number: int
    key: str
    image: bytes
    captions: str | None = None
    questions: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The captions; none where the column holds something else."""
        try:
            return parse_caption_row((self.key, self.captions or "[]"), "").captions
        except DataError:
            return ()


class StoredRows:
    """The rows of a set. What cannot be taken apart is a Failure. Runs in worker processes."""

    def __init__(self, rows: TsvSet) -> None:
        self.rows = rows

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files."""
        return self.rows.inputs

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> StoredRow | Failure:
        """A row, or why it cannot be stored. Raises DataError if the files do not belong together."""
        key = self.rows.lines(row)[0].partition(b"\t")[0].decode("utf-8", "replace")
        try:
            first, *others = self.rows.files
            image = parse_image_row(first.columns(row), first.where(row))
            texts = {}
            for ending, file in zip(self.rows.endings, others, strict=True):
                columns = file.columns(row)
                if len(columns) != 2:
                    raise DataError(f"{file.where(row)}: found {len(columns)} columns, expected 2")
                texts[NAMES[ending]] = columns[1]
            return StoredRow(row, image.key, image.image, **texts)
        except DataError as error:
            return Failure(key, f"no usable row: {error}", ())
