"""Data whose captions follow a base captioner's: pictures for it to caption, and the data with its captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from git_caption.errors import DataError
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.feature_rows import EncodedSample, EncodedSamples
from git_caption.samples.question_rows import placeholder
from git_caption.samples.sample import Failure, FeatureSample, ImageSample
from git_caption.samples.training_data import Texts, TrainingData, TrainingSamples
from git_caption.text.prompts import with_base_caption
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_caption_row


class Uncaptioned:
    """The rows of data to train on as rows to caption; runs in worker processes."""

    def __init__(self, samples: TrainingSamples | EncodedSamples) -> None:
        self.samples = samples

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return self.samples.inputs

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, row: int) -> ImageSample | FeatureSample | Failure:
        """The picture of a row, or its features; a Failure with an empty caption where it has neither."""
        found = self.samples.read(row)
        if isinstance(found, Failure):
            return replace(found, lines=placeholder(found.key, None))
        if isinstance(found, EncodedSample):
            return FeatureSample(found.texts.key, found.values, "features")
        return ImageSample(found.key, found.pixels)


class Prompted:
    """Data to train on, with the prompt that each picture's captions follow."""

    def __init__(self, data: TrainingData | ClipCapPickle, base_captions: Path, template: str) -> None:
        """Join data with a TSV of the base captioner's captions, row by row.

        Raises:
            DataError: they differ in length.
        """
        self.data = data
        self.captions = TsvFile(base_captions)
        self.template = template
        if len(self.captions) != len(data):
            raise DataError(
                f"{base_captions} has captions of {len(self.captions)} pictures, and the data, {data.kind} in "
                f"{', '.join(map(str, data.inputs))}, has {len(data)}: remove it to have them made anew"
            )

    @property
    def kind(self) -> str:
        """The format in words."""
        return self.data.kind

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say which rows there are."""
        return self.data.inputs

    @property
    def missing(self) -> int:
        """Rows that were left out because their image is not there."""
        return self.data.missing

    def __len__(self) -> int:
        return len(self.data)

    def key(self, row: int) -> str:
        """As the data set has it."""
        return self.data.key(row)

    def texts(self, row: int) -> Texts:
        """What is said about a row's picture. Raises DataError as the data does, or if the captions are another's."""
        texts = self.data.texts(row)
        where = self.captions.where(row)
        before = parse_caption_row(self.captions.columns(row), where)
        if before.key != texts.key:
            raise DataError(f"{where}: the key is {before.key!r}, and {texts.key!r} in {self.data.where(row)}")
        return replace(texts, caption_prompt=with_base_caption(self.template, before.captions[0]))

    def image(self, row: int) -> bytes:
        """A row's image file; raises as the data does."""
        return self.data.image(row)

    def where(self, row: int) -> str:
        """File and place in it, as messages give them."""
        return self.data.where(row)
