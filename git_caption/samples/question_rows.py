"""A question TSV beside a file of images or features: row i asks about row i."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from git_caption.errors import DataError
from git_caption.samples.sample import Failure
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import Answer, CaptionRow, Question, QuestionRow, parse_question_row


class QuestionRows:
    """Its rows. Raises DataError if there are not as many as `rows`, those of the file `beside`."""

    def __init__(self, question_tsv: str | Path, rows: int, beside: Path) -> None:
        self.file = TsvFile(question_tsv)
        if len(self.file) != rows:
            raise DataError(
                f"{beside} has {rows} rows and {self.file.path} has {len(self.file)}; "
                "expected one row of questions for each image, in the same order"
            )

    def read(self, row: int, key: str, where: str | None) -> QuestionRow | Failure:
        """The questions of a row; a Failure without lines where they cannot be read: nobody knows how many they are.

        where: the place that `key` is from; None where it could not be read and is not compared.
        Raises DataError if the keys differ: the two files do not belong together.
        """
        try:
            asked = parse_question_row(self.file.columns(row), self.file.where(row))
        except DataError as error:
            return Failure(key, str(error), [])
        if where is not None and asked.key != key:
            raise DataError(
                f"{self.file.where(row)}: the key is {asked.key!r}, and {key!r} in {where}; "
                "expected the same keys in the same order"
            )
        return asked


def placeholder(key: str, questions: Sequence[Question] | None) -> list[list[str]]:
    """What stands for a row that failed: an empty answer to each question, or, None given, an empty caption."""
    if questions is None:
        return [CaptionRow(key, ("",)).columns()]
    return [Answer(question.question_id, "").columns() for question in questions]
