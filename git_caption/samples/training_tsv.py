"""Image TSV + caption TSV, question TSV with answers, or both → samples to train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from git_caption.errors import DataError
from git_caption.samples.training_data import Texts, checked_texts, said
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import QuestionRow, parse_caption_row, parse_image_row, parse_question_row

KEY_SHOWN = 80  # characters of a key in a message: in a row without tabs all of it would be the key


class TrainingTsv:
    """Samples by row number, 0-based; the files are opened again in each process that reads. Fulfils `TrainingData`.

    Memory: the indexes, 8 bytes a row and file, mapped from the disk.

    Raises DataError if the files have different numbers of rows and, when a row is read, if it is broken, its keys
    differ, or a question has no answer.
    """

    missing = 0

    def __init__(
        self, image_tsv: str | Path, caption_tsv: str | Path | None, question_tsv: str | Path | None = None
    ) -> None:
        """Open the files, of which at least one has texts."""
        self.images = TsvFile(image_tsv)
        self.captions = TsvFile(caption_tsv) if caption_tsv is not None else None
        self.questions = TsvFile(question_tsv) if question_tsv is not None else None
        for other in (self.captions, self.questions):
            if other is not None and len(other) != len(self.images):
                raise DataError(
                    f"{self.images.path} has {len(self.images)} rows and {other.path} has {len(other)}; "
                    "expected one row for each image, in the same order"
                )

    @property
    def kind(self) -> str:
        """What it is made of."""
        return f"image TSV and {'question' if self.captions is None else 'caption'} TSV"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        files = (self.images, self.captions, self.questions)
        return tuple(file.path for file in files if file is not None)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, row: int) -> str:
        """The key of the image TSV."""
        return self.images.columns(row)[0]

    def texts(self, row: int) -> Texts:
        """What is said about the picture of a row, without reading the picture."""
        asked = None if self.questions is None else _asked(self.questions, row)
        if self.captions is None:
            assert asked is not None, "one of the two files is there"
            if not asked.questions:
                raise DataError(f"{self.where(row)}: no question, expected at least one to train on")
            return Texts(asked.key, (), asked.questions)
        columns, where = _read(self.captions, row)
        captions = parse_caption_row(columns, where)
        texts = checked_texts(captions.key, captions.captions, where)
        if asked is not None and self.questions is not None and asked.key != captions.key:
            raise DataError(
                f"{self.questions.where(row)}: the key is {asked.key!r}, and {captions.key!r} in the caption TSV"
            )
        return texts if asked is None else replace(texts, questions=asked.questions)

    def image(self, row: int) -> bytes:
        """The image file of a row. Raises DataError if its key is not that of the texts."""
        columns, where = _read(self.images, row)
        image = parse_image_row(columns, where)
        texts = self.questions if self.captions is None else self.captions
        assert texts is not None, "one of the two files is there"
        key = texts.columns(row)[0]
        if image.key != key:
            raise DataError(f"{texts.where(row)}: the key is {key!r}, and {image.key!r} in the image TSV")
        return image.image

    def where(self, row: int) -> str:
        """Image TSV and row, 1-based."""
        return self.images.where(row)


def _asked(file: TsvFile, row: int) -> QuestionRow:
    columns, where = _read(file, row)
    asked = parse_question_row(columns, where)
    for question in asked.questions:
        if not said(question):
            raise DataError(f'{where}: question {question.question_id} has no "answers", expected one at least')
    return asked


def _read(file: TsvFile, row: int) -> tuple[list[str], str]:
    """A row's columns, and its place and key as messages give them."""
    columns = file.columns(row)
    return columns, f"{file.where(row)} (key {columns[0][:KEY_SHOWN]!r})"
