"""Several data sets as one: the rows of the first, then those of the second, and so on."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from git_caption.samples.feature_rows import EncodedSample, EncodedSamples, TextSamples
from git_caption.samples.sample import Failure
from git_caption.samples.training_data import Texts, TrainingData, TrainingSample, TrainingSamples


class MixedData:
    """Data sets one after another; fulfils `TrainingData`."""

    def __init__(self, parts: Sequence[TrainingData]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def kind(self) -> str:
        """The formats in words."""
        return " with ".join(part.kind for part in self.parts)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say which rows there are."""
        return tuple(path for part in self.parts for path in part.inputs)

    @property
    def missing(self) -> int:
        """Rows that were left out."""
        return sum(part.missing for part in self.parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def key(self, row: int) -> str:
        """As the data set gives it."""
        part, own = self.place(row)
        return self.parts[part].key(own)

    def texts(self, row: int) -> Texts:
        """As the data set gives them."""
        part, own = self.place(row)
        return self.parts[part].texts(own)

    def image(self, row: int) -> bytes:
        """As the data set gives it."""
        part, own = self.place(row)
        return self.parts[part].image(own)

    def where(self, row: int) -> str:
        """As the data set tells it."""
        part, own = self.place(row)
        return self.parts[part].where(own)

    def place(self, row: int) -> tuple[int, int]:
        """The number of a row's data set, and of the row in it."""
        part = bisect_right(self._ends, row)
        return part, row - (self._ends[part - 1] if part else 0)


class MixedSamples:
    """The samples of several data sets, one after another."""

    def __init__(self, parts: Sequence[TrainingSamples | EncodedSamples | TextSamples]) -> None:
        self.parts = tuple(parts)
        self.data = MixedData([part.data for part in parts])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rows of each."""
        return tuple(map(len, self.parts))

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that rows come from."""
        return tuple(path for part in self.parts for path in part.inputs)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, row: int, rng: random.Random | None = None) -> TrainingSample | EncodedSample | Failure:
        """As the data set's own samples are read."""
        part, own = self.data.place(row)
        return self.parts[part].read(own, rng)


Samples = TrainingSamples | EncodedSamples | TextSamples | MixedSamples


def quotas(weights: Sequence[float], count: int) -> list[int]:
    """`count` shared out by weights; what does not come out even goes to the largest remainders."""
    exact = [weight / sum(weights) * count for weight in weights]
    found = [int(part) for part in exact]
    by_remainder = sorted(range(len(found)), key=lambda number: found[number] - exact[number])
    for number in by_remainder[: count - sum(found)]:
        found[number] += 1
    return found
