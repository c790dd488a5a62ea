"""Parquet files as a data set: images beside captions and questions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.samples.columns import CAPTION, find_column, known
from git_caption.samples.parquet_images import ParquetImages
from git_caption.samples.splits import choose, refuse
from git_caption.samples.training_data import Column, Texts, checked_texts
from git_caption.tsv.rows import parse_caption_row

QUESTIONS = "questions_json"
CAPTIONS = "captions_json"
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-\w+)?\.parquet")  # of a split, as the hub calls them


def parquet_files(path: Path, split: str | None) -> list[Path]:
    """A Parquet file, or those of a split in a folder, or in its `data/`, as the hub has them; empty without any.

    Raises UsageError if the split is not there.
    """
    if path.suffix == ".parquet" and path.is_file():
        refuse(split, "a Parquet file", str(path))
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    splits = {match[1] for file in found if (match := SHARD.fullmatch(file.name))}
    if not splits:
        if found:
            refuse(split, "a folder of Parquet files", str(path))
        return found
    chosen = choose(splits, split, str(path))
    return [file for file in found if (match := SHARD.fullmatch(file.name)) and match[1] == chosen]


class ParquetData(ParquetImages):
    """Rows with what is said about them: fulfils `TrainingData`.

    `captions_json` and `questions_json` are the second columns of caption and question TSVs, as `tsv_to_parquet` writes
    them; without them a column `caption`, `text` or the like holds a caption or a list of them.
    Raises as `ParquetImages` does.
    """

    kind = "Parquet"
    missing = 0

    def __init__(self, paths: list[Path], image_column: str | None = None, caption_column: str | None = None) -> None:
        """None: columns are found by name."""
        super().__init__(paths, image_column)
        self.caption_column = known(self.names, CAPTION)
        if caption_column is not None:
            self.caption_column = find_column(self.names, caption_column, CAPTION, "caption_column", str(paths[0]))
        self.has_captions = self.caption_column is not None or CAPTIONS in self.names
        self.has_questions = QUESTIONS in self.names

    def column(self, row: int, column: Column) -> str | None:
        """The TSV's second column, where the file has it. Raises DataError if the file is damaged."""
        name = CAPTIONS if column == "captions" else QUESTIONS
        value = self.value(row, name) if name in self.names else None
        return value if isinstance(value, str) else None

    def texts(self, row: int) -> Texts:
        """Key and captions. Raises DataError if none can be used."""
        stored = self.column(row, "captions")
        value: Any = None
        if stored is not None:
            value = list(parse_caption_row((self.key(row), stored), self.where(row)).captions)
        elif self.caption_column is not None:
            value = self.value(row, self.caption_column)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list):
            raise DataError(f"{self.where(row)}: no caption, expected a text or a list of texts")
        return checked_texts(self.key(row), texts, self.where(row))
