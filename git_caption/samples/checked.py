"""Rows of a data set looked through, one by one: what is wrong with each, and what tells whether it comes again."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from git_caption.errors import DataError, MissingImage
from git_caption.images.decode import decode
from git_caption.samples.training_data import TrainingData
from git_caption.tsv.rows import Question


@dataclass(frozen=True)
class CheckedRow:
    """A row and its faults, which are empty where there are none.

    image: a digest of the image file, None where it cannot be read. missing: it is not there.
    """

    key: str
    captions: tuple[str, ...]
    questions: tuple[Question, ...]
    image: int | None
    missing: bool
    text_fault: str
    image_fault: str
    left_out: tuple[str, ...] = ()  # captions that cannot be used, beside others that can


class CheckedRows:
    """The rows of a data set, each read and its image decoded. Runs in worker processes."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return self.data.inputs

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int) -> CheckedRow:
        """A row, whatever is wrong with it."""
        captions: tuple[str, ...] = ()
        questions: tuple[Question, ...] = ()
        key, text_fault = "", ""
        left_out: tuple[str, ...] = ()
        try:
            texts = self.data.texts(row)
            key, captions, questions, left_out = texts.key, texts.captions, texts.questions, texts.left_out
        except DataError as error:
            text_fault = str(error)
        image: int | None = None
        missing, image_fault = False, ""
        try:
            data = self.data.image(row)
            image = digest(data)
            try:
                decode(data, shorter_side=1)  # all of a JPEG is read, an eighth of its size computed
            except DataError as error:
                image_fault = f"{self.data.where(row)}: {error}"
        except DataError as error:
            image_fault, missing = str(error), isinstance(error, MissingImage)
        return CheckedRow(key, captions, questions, image, missing, text_fault, image_fault, left_out)


def digest(data: bytes) -> int:
    """64 bits that tell files and texts apart."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
