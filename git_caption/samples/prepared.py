"""Rows of a data set as the lines of image, caption and question TSVs, each image its file's own bytes."""

from __future__ import annotations

from pathlib import Path

from git_caption.errors import DataError, MissingImage
from git_caption.images.decode import decode
from git_caption.samples.sample import Failure
from git_caption.samples.training_data import Column, StoredColumns, TrainingData
from git_caption.tsv.rows import CaptionRow, ImageRow, QuestionRow
from git_caption.tsv.writer import encode

NO_IMAGE, BROKEN_IMAGE, BAD_TEXTS = "no image", "broken image", "no usable texts"  # what rows are left out for
BAD_CAPTION = "unusable caption"  # left out alone


class PreparedRows:
    """A row gives a line for each of `columns`, without its newline. Runs in worker processes.

    What cannot be prepared is a Failure whose reason begins with one of the causes above; of a row of which only
    captions are left out it has the lines.
    verify: images are decoded, and one that cannot be is left out.
    """

    def __init__(self, data: TrainingData, columns: tuple[Column, ...], verify: bool) -> None:
        self.data = data
        self.columns = columns
        self.verify = verify

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say which rows there are."""
        return self.data.inputs

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int) -> tuple[bytes, ...] | Failure:
        """The lines of a row."""
        key, cause = "", BAD_TEXTS
        try:
            key = self.data.key(row)
            # What is wrong with an entry is told by its texts: they come before a key that it may lack.
            texts = {name: self._texts(row, key, name) for name in self.columns if name != "images"}
            lines: dict[Column, bytes] = {name: self._line(found, row) for name, (found, _) in texts.items()}
            self._line([key], row)
            if "images" in self.columns:
                cause = BROKEN_IMAGE
                lines["images"] = self._line(self._image(row, key), row)
            written = tuple(lines[name] for name in self.columns)
            if left_out := [fault for _, faults in texts.values() for fault in faults]:
                columns = [line.decode().split("\t") for line in written]
                return Failure(key, f"{BAD_CAPTION}: {'; '.join(left_out)}", columns)
            return written
        except DataError as error:
            return Failure(key, f"{NO_IMAGE if isinstance(error, MissingImage) else cause}: {error}", ())

    def _line(self, columns: list[str], row: int) -> bytes:
        return encode(columns, self.data.where(row)).removesuffix(b"\n")

    def _image(self, row: int, key: str) -> list[str]:
        image = self.data.image(row)
        if self.verify:
            try:
                decode(image, shorter_side=1)  # all of a JPEG is read, an eighth of its size computed
            except DataError as error:
                raise DataError(f"{self.data.where(row)}: {error}") from error
        return ImageRow(key, image).columns()

    def _texts(self, row: int, key: str, column: Column) -> tuple[list[str], tuple[str, ...]]:
        """A line of captions or questions, as it stands where the data set has it so, and what is left out of it."""
        if isinstance(self.data, StoredColumns) and (found := self.data.column(row, column)) is not None:
            return [key, found], ()
        if column == "captions":
            texts = self.data.texts(row)
            return CaptionRow(key, texts.captions).columns(), texts.left_out
        return QuestionRow(key, ()).columns(), ()


def columns_of(data: TrainingData) -> tuple[Column, ...]:
    """What the data set has beside images."""
    found: list[Column] = ["captions"] if getattr(data, "has_captions", True) else []
    return (*found, "questions") if getattr(data, "has_questions", False) else tuple(found)


def has_images(data: TrainingData) -> bool:
    """Whether any image can be read; the first that can ends the search."""
    for row in range(len(data)):
        try:
            data.image(row)
        except DataError:
            continue
        return True
    return False
