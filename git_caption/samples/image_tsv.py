"""Images by row, alone or beside a question TSV, as samples."""

from __future__ import annotations

from pathlib import Path

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.samples.image_rows import open_images, torn_key
from git_caption.samples.question_rows import QuestionRows, placeholder
from git_caption.samples.sample import Failure, ImageSample


class ImageTsvSource:
    """Row `i` of an image TSV, or of what stands for one, as pixels; with row `i` of the question TSV if there is one.

    Runs in worker processes: picklable, and needs no torch. Raises DataError if the files differ in length, and as
    `open_images` does.
    """

    def __init__(
        self,
        image_tsv: str | Path,
        question_tsv: str | Path | None,
        pixels: ImageReader,
        base_pixels: ImageReader | None = None,
    ) -> None:
        """`base_pixels`: as a base captioner reads images, where it takes pixels of its own."""
        self.images = open_images(image_tsv)
        self.questions = (
            None if question_tsv is None else QuestionRows(question_tsv, len(self.images), self.images.inputs[0])
        )
        self.pixels = pixels
        self.base_pixels = base_pixels

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the samples come from."""
        return (*self.images.inputs, *(() if self.questions is None else (self.questions.file.path,)))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> ImageSample | Failure:
        """The sample of a row, or a Failure with an empty caption, or with an empty answer to each question.

        Where the questions themselves cannot be read there is no knowing how many lines they were to give: none.
        Raises DataError where the two files have different keys in a row: they do not belong together.
        """
        try:
            key, unreadable = self.images.key(row), None
        except DataError as error:
            key, unreadable = torn_key(self.images, row), error
        questions = None
        if self.questions is not None:
            asked = self.questions.read(row, key, None if unreadable else self.images.where(row))
            if isinstance(asked, Failure):
                return asked
            key, questions = asked.key, asked.questions
        try:
            if unreadable is not None:
                raise unreadable
            image = self.images.image(row)
            try:
                base_pixels = None if self.base_pixels is None else self.base_pixels(image)
                return ImageSample(key, self.pixels(image), questions or (), base_pixels)
            except DataError as error:
                raise DataError(f"{self.images.where(row)}: {error}") from error
        except DataError as error:
            return Failure(key, str(error), placeholder(key, questions))
