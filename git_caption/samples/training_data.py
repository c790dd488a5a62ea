"""What a data set to train on is, whatever its format: rows by number, each a picture with its texts."""

from __future__ import annotations

import random
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from git_caption.errors import DataError, MissingImage
from git_caption.images.reader import ImageReader
from git_caption.samples.sample import Failure
from git_caption.tsv.rows import Question

LARGEST_IMAGE = 1 << 28  # bytes of an image file

Column = Literal["images", "captions", "questions"]  # what image, caption and question TSVs hold beside the key


@dataclass(frozen=True)
class Texts:
    """All that is said, asked and answered about one picture.

    caption_prompt: what captions follow, where it is the picture's own; None: what they follow in all pictures.
    left_out: the place and the cause of each caption that cannot be used; the others are in `captions`.
    """

    key: str
    captions: tuple[str, ...]
    questions: tuple[Question, ...]  # each with at least one answer that is not blank
    caption_prompt: str | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """A picture (uint8[3, R, R]) and its texts."""

    pixels: npt.NDArray[np.uint8]
    texts: Texts

    @property
    def key(self) -> str:
        """The picture's key."""
        return self.texts.key


class TrainingData(Protocol):
    """A data set by row number, 0-based: one row a picture.

    Picklable and light to import, for worker processes read the rows; files are opened there.
    """

    @property
    def kind(self) -> str:
        """The format in words."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say which rows there are."""

    @property
    def missing(self) -> int:
        """Rows that were left out when the data set was opened because their image is not there."""

    def __len__(self) -> int:
        """Number of rows."""

    def key(self, row: int) -> str:
        """What a row's picture is called, whatever else is in the row. Raises DataError if that cannot be read."""

    def texts(self, row: int) -> Texts:
        """What is said about a row's picture, without reading the picture. Raises DataError if the row is broken."""

    def image(self, row: int) -> bytes:
        """A row's image file. Raises MissingImage, and DataError if it cannot be read; both name it."""

    def where(self, row: int) -> str:
        """File and place in it (1-based), as messages give them."""


@runtime_checkable
class StoredColumns(Protocol):
    """A data set that has some of its texts as caption and question TSVs spell them."""

    def column(self, row: int, column: Column) -> str | None:
        """The second column of that TSV; None where it is to be made of the texts. Raises DataError."""


class TrainingSamples:
    """The rows of a data set as samples, in worker processes or here: the source that `pipeline` reads."""

    def __init__(self, data: TrainingData, pixels: ImageReader) -> None:
        self.data = data
        self.pixels = pixels

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return self.data.inputs

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int, rng: random.Random | None = None) -> TrainingSample | Failure:
        """The sample of a row, or a Failure without lines whose reason names the place.

        Where pictures are augmented, `rng` draws how.
        """
        key = ""
        try:
            texts = self.data.texts(row)
            key = texts.key
            image = self.data.image(row)
            try:
                return TrainingSample(self.pixels(image, rng), texts)
            except DataError as error:
                raise DataError(f"{self.data.where(row)}: {error}") from error
        except DataError as error:
            return Failure(key, str(error), ())


def checked_texts(key: str, captions: Sequence[object], where: str, left_out: Sequence[str] = ()) -> Texts:
    """The texts of a picture that has captions only: those that can be used, and beside them what was left out.

    left_out: what was before. Raises DataError if there is no caption that can be used.
    """
    faults = [*left_out, *(f"{where}: {fault}" for fault in map(caption_fault, captions) if fault is not None)]
    good = tuple(caption for caption in captions if isinstance(caption, str) and caption_fault(caption) is None)
    if not good:
        raise DataError("; ".join(faults) or f"{where}: no caption, expected at least one")
    return Texts(key, good, (), left_out=tuple(faults))


def said(question: Question) -> tuple[str, ...]:
    """The answers to a question that say anything; a blank one would teach to end at once."""
    return tuple(answer for answer in question.answers if answer.strip())


def caption_fault(caption: object) -> str | None:
    """Why a caption cannot be used: no text, blank, or not Unicode, which tokenizers fail on; None where it can."""
    if not isinstance(caption, str):
        return f"the caption is {caption!r:.60}, expected a text"
    if not caption.strip():
        return "an empty caption"
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError as error:
        begin = max(0, error.start - 20)
        return f"the caption is not Unicode text at {caption[begin : error.end]!a}, expected UTF-8"
    return None


def read_image(paths: Sequence[Path], where: str) -> bytes:
    """The first of these files that is there.

    Raises MissingImage if none is, DataError if it is no file, cannot be read or is past `LARGEST_IMAGE` bytes.
    """
    for path in paths:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                raise DataError(f"{where}: {path} is no file, expected an image")
            if status.st_size > LARGEST_IMAGE:
                raise DataError(
                    f"{where}: {path} has {status.st_size} bytes, expected an image of at most {LARGEST_IMAGE}"
                )
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{where}: {path} cannot be read: {reason}") from error
    others = dict.fromkeys(str(path.parent) for path in paths if path.parent != paths[0].parent)
    also = f" nor in {', '.join(others)}" if others else ""
    raise MissingImage(f"{where}: no image {paths[0]}{also}")
