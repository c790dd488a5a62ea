"""A feature cache in place of images, alone or beside a question TSV, as samples."""

from __future__ import annotations

from pathlib import Path

from git_caption.samples.features import FeatureCache
from git_caption.samples.question_rows import QuestionRows, placeholder
from git_caption.samples.sample import Failure, FeatureSample


class FeatureSource:
    """Row `i` of the cache, with row `i` of the question TSV if there is one.

    Raises DataError if the file is no cache, or the two differ in length.
    """

    def __init__(self, features: str | Path, question_tsv: str | Path | None) -> None:
        self.cache = FeatureCache(features)
        self.questions = None if question_tsv is None else QuestionRows(question_tsv, len(self.cache), self.cache.path)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the samples come from."""
        return (self.cache.path,) if self.questions is None else (self.cache.path, self.questions.file.path)

    def __len__(self) -> int:
        return len(self.cache)

    def read(self, row: int) -> FeatureSample | Failure:
        """The sample of a row; a Failure where it has no features, as of a broken image. Raises as `QuestionRows`."""
        found = self.cache[row]
        questions = None
        if self.questions is not None:
            asked = self.questions.read(row, found.key, self.cache.where(row))
            if isinstance(asked, Failure):
                return asked
            questions = asked.questions
        if not len(found.values):
            reason = f"{self.cache.where(row)}: the image could not be processed when the features were made"
            return Failure(found.key, reason, placeholder(found.key, questions))
        return FeatureSample(found.key, found.values, self.cache.description.origin.what, questions or ())
