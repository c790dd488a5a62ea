"""Features in place of images: a feature cache to caption, alone or beside a question TSV, or to train on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from git_caption.errors import DataError
from git_caption.params.features import What
from git_caption.samples.features import FeatureCache, Values
from git_caption.samples.joint_features import JointFeatures, open_features
from git_caption.samples.question_rows import QuestionRows, placeholder
from git_caption.samples.sample import Failure, FeatureSample
from git_caption.samples.training_data import Texts, TrainingData

if TYPE_CHECKING:
    from git_caption.samples.clipcap_pickle import ClipCapPickle


class FeatureSource:
    """Row `i` of the cache, or of several, with row `i` of the question TSV if there is one.

    Raises DataError if the file is no cache, or the two differ in length.
    """

    def __init__(self, features: str | Path, question_tsv: str | Path | None) -> None:
        self.cache = open_features(str(features))
        first = self.cache.files[0]
        self.questions = None if question_tsv is None else QuestionRows(question_tsv, len(self.cache), first)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the samples come from."""
        return self.cache.files if self.questions is None else (*self.cache.files, self.questions.file.path)

    @property
    def what(self) -> What:
        """What a row is to a captioner; stored prefixes that it mixes are its features."""
        return "prefix" if isinstance(self.cache, FeatureCache) and self.cache.holds_prefixes else "features"

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
        return FeatureSample(found.key, found.values, self.what, questions or ())


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """What an image encoder gave for a picture, float[N, D_v], and the picture's texts."""

    values: Values
    texts: Texts


class EncodedSamples:
    """The rows of a data set with their features in place of pixels: what `TrainingSamples` is without a cache.

    A pickle of ClipCap's is data and features at once.
    """

    def __init__(
        self, data: TrainingData | ClipCapPickle, features: FeatureCache | JointFeatures | ClipCapPickle
    ) -> None:
        """Join the two. Raises DataError if they differ in length."""
        if len(data) != len(features):
            raise DataError(
                f"{features.files[0]} has features of {len(features)} rows, and the data, {data.kind} in "
                f"{', '.join(map(str, data.inputs))}, has {len(data)}: make the features anew from it"
            )
        self.data = data
        self.features = features

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return tuple(dict.fromkeys((*self.data.inputs, *self.features.files)))

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int, rng: random.Random | None = None) -> EncodedSample | Failure:
        """The sample of a row, or a Failure without lines; also for one without features.

        The image is not read, so that `rng` has nothing to change.
        """
        key = ""
        try:
            texts = self.data.texts(row)
            key = texts.key
            return EncodedSample(self.features.values(row, key), texts)
        except DataError as error:
            return Failure(key, str(error), ())


class TextSamples:
    """The rows of a data set with no picture: features of no row in place of pixels. No image is read."""

    NOTHING = np.zeros((0, 0), dtype=np.float32)

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return self.data.inputs

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int, rng: random.Random | None = None) -> EncodedSample | Failure:
        """The texts of a row, or a Failure without lines; there is nothing for `rng` to change."""
        try:
            return EncodedSample(self.NOTHING, self.data.texts(row))
        except DataError as error:
            return Failure("", str(error), ())
