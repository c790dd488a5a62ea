"""Image TSVs, alone or beside a question TSV, as samples."""

from __future__ import annotations

from pathlib import Path

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.samples.sample import Failure, ImageSample
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import Answer, CaptionRow, Question, parse_image_row, parse_question_row


class ImageTsvSource:
    """Row `i` of the image TSV, as pixels, with row `i` of the question TSV if there is one.

    Runs in worker processes: picklable, and needs no torch. Raises DataError if the files differ in length.
    """

    def __init__(self, image_tsv: str | Path, question_tsv: str | Path | None, pixels: ImageReader) -> None:
        self.images = TsvFile(image_tsv)
        self.questions = None if question_tsv is None else TsvFile(question_tsv)
        self.pixels = pixels
        if self.questions is not None and len(self.questions) != len(self.images):
            raise DataError(
                f"{self.images.path} has {len(self.images)} rows and {self.questions.path} has {len(self.questions)}; "
                "expected one row of questions for each image, in the same order"
            )

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the samples come from."""
        return (self.images.path,) if self.questions is None else (self.images.path, self.questions.path)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> ImageSample | Failure:
        """The sample of a row, or a Failure with an empty caption, or with an empty answer to each question.

        Where the questions themselves cannot be read there is no knowing how many lines they were to give: none.
        Raises DataError where the two files have different keys in a row: they do not belong together.
        """
        try:
            columns = self.images.columns(row)
        except DataError as error:
            columns, unreadable = [], error
        key = columns[0] if columns else _key(self.images.raw(row))
        questions: tuple[Question, ...] = ()
        if self.questions is not None:
            try:
                asked = parse_question_row(self.questions.columns(row), self.questions.where(row))
            except DataError as error:
                return Failure(key, str(error), [])
            if columns and asked.key != key:
                raise DataError(
                    f"{self.questions.where(row)}: the key is {asked.key!r}, and {key!r} in {self.images.where(row)}; "
                    "expected the same keys in the same order"
                )
            key, questions = asked.key, asked.questions
        try:
            if not columns:
                raise unreadable
            image = parse_image_row(columns, self.images.where(row)).image
            try:
                return ImageSample(key, self.pixels(image), questions)
            except DataError as error:
                raise DataError(f"{self.images.where(row)}: {error}") from error
        except DataError as error:
            return Failure(key, str(error), self._placeholder(key, questions))

    def _placeholder(self, key: str, questions: tuple[Question, ...]) -> list[list[str]]:
        if self.questions is None:
            return [CaptionRow(key, ("",)).columns()]
        return [Answer(question.question_id, "").columns() for question in questions]


def _key(line: bytes) -> str:
    """The first column of a line that is empty or not UTF-8, as far as it can be read."""
    return line.split(b"\t")[0].decode("utf-8", "replace")
