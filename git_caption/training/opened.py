"""The data of a run, opened: the rows, and the features that may stand for their pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.params.training.dataset import DatasetParams
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.feature_rows import EncodedSamples, TextSamples
from git_caption.samples.features import FeatureCache
from git_caption.samples.joint_features import JointFeatures, open_features
from git_caption.samples.mixed import MixedData, MixedSamples, Samples
from git_caption.samples.open_data import open_data
from git_caption.samples.training_data import TrainingData, TrainingSamples
from git_caption.samples.training_tsv import TrainingTsv


@dataclass(frozen=True, eq=False)
class OpenedSet:
    """A data set, and the features that stand for its pictures; a pickle of ClipCap's is both.

    told: what it was opened by.
    """

    told: DatasetParams
    data: TrainingData
    features: FeatureCache | JointFeatures | ClipCapPickle | None

    @property
    def files(self) -> list[Path]:
        """The files that rows come from."""
        return [*self.data.inputs, *(() if self.features is None else self.features.files)]

    def samples(self, reader: ImageReader | None) -> TrainingSamples | EncodedSamples | TextSamples:
        """The rows as samples: pixels, or the features, or without a reader the texts alone."""
        if self.features is not None:
            return EncodedSamples(self.data, self.features)
        return TextSamples(self.data) if reader is None else TrainingSamples(self.data, reader)


@dataclass(frozen=True, eq=False)
class Opened:
    """The data sets of a run, or of its validation."""

    sets: tuple[OpenedSet, ...]

    @property
    def data(self) -> TrainingData:
        """All of them as one."""
        return self.sets[0].data if len(self.sets) == 1 else MixedData([one.data for one in self.sets])

    @property
    def files(self) -> list[Path]:
        """The files that rows come from."""
        return [path for one in self.sets for path in one.files]

    def samples(self, reader: ImageReader | None) -> Samples:
        """The rows of all as samples."""
        parts = [one.samples(reader) for one in self.sets]
        return parts[0] if len(parts) == 1 else MixedSamples(parts)

    def is_of(self, other: Opened) -> bool:
        """Whether the rows are those of other data sets."""
        own, others = self.data, other.data
        return (own.inputs, len(own), own.where(0)) == (others.inputs, len(others), others.where(0))

    def asks(self) -> bool:
        """Whether there is a question in any row; looks no further than the first."""
        data = self.data
        for row in range(len(data)):
            try:
                if data.texts(row).questions:
                    return True
            except DataError:  # told when the row is read for a step
                continue
        return False


def open_all(params: DatasetParams, say: Callable[[str], None]) -> Opened:
    """Open the data sets that `params` tell. `say` is given a line where their features are not used."""
    if params.features and not params.stored:
        say(f"'augment' is {params.augment!r}: the pictures are read, and the features in {params.features} not used")
    return Opened(tuple(_open(one) for one in params.sets))


def _open(params: DatasetParams) -> OpenedSet:
    if params.pickled and params.data is not None:
        pickled = ClipCapPickle(params.data)
        return OpenedSet(params, pickled, pickled)
    features = open_features(params.features) if params.stored and params.features else None
    if params.image_tsv is not None:
        return OpenedSet(params, TrainingTsv(params.image_tsv, params.caption_tsv, params.question_tsv), features)
    assert params.data is not None, "checked with the parameters"
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}
    return OpenedSet(params, open_data(params.data, split=params.split, **columns), features)
