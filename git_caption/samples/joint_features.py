"""The feature caches of several image encoders, or the stored prefixes of several captioners, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from git_caption.errors import DataError, UsageError
from git_caption.params import paths
from git_caption.params.features import FeatureOrigin
from git_caption.samples.features import FeatureCache, FeatureRow, Values


class JointFeatures:
    """A row holds what all encoders gave for an image, one's numbers after the other's: float[1, S].

    Attributes:
        caches: one for each encoder.
    """

    tokens = 1

    def __init__(self, caches: Sequence[FeatureCache]) -> None:
        """Join caches. Raises DataError if they are not of the same images."""
        self.caches = tuple(caches)
        for other in self.caches[1:]:
            _check_same(self.caches[0], other)

    @property
    def width(self) -> int:
        """S."""
        return sum(cache.tokens * cache.width for cache in self.caches)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(cache.path for cache in self.caches)

    @property
    def holds_prefixes(self) -> bool:
        """Whether all hold prefixes."""
        return all(cache.holds_prefixes for cache in self.caches)

    def __len__(self) -> int:
        return len(self.caches[0])

    def __getitem__(self, row: int) -> FeatureRow:
        """A row, without values where one encoder gave none. Raises as `FeatureCache`."""
        found = [cache[row] for cache in self.caches]
        if not all(len(one.values) for one in found):
            return FeatureRow(found[0].key, np.zeros((0, self.width), dtype=np.float32))
        return FeatureRow(found[0].key, self._joined([one.values for one in found], row))

    def values(self, row: int, key: str) -> Values:
        """As `FeatureCache.values`: float[1, S]."""
        return self._joined([cache.values(row, key) for cache in self.caches], row)

    def where(self, row: int) -> str:
        """The first file, and row (1-based), as messages give them."""
        return self.caches[0].where(row)

    def check_origins(self, origins: Sequence[FeatureOrigin], whose: str) -> None:
        """Raise UsageError if these are not what is seen by the image encoders of `whose`, in their order."""
        if len(origins) != len(self.caches):
            named = ", ".join(map(str, self.files))
            raise UsageError(
                f"{named}: {len(self.caches)} files, and {whose} has {len(origins)} image encoders: expected a file of "
                "each"
            )
        for number, (cache, origin) in enumerate(zip(self.caches, origins, strict=True), 1):
            own = cache.description.origin
            if own.differences(origin) and not all(own.differences(other) for other in origins):
                raise UsageError(
                    f"{cache.path}: file {number} is of {own.image_encoder!r}, and image encoder {number} of {whose} "
                    f"is {origin.image_encoder!r}: name the files in the order of the image encoders"
                )
            cache.check_origin(origin, whose)

    def check_inputs(self, inputs: Sequence[Path]) -> None:
        """As `FeatureCache.check_inputs`."""
        for cache in self.caches:
            cache.check_inputs(inputs)

    def _joined(self, values: Sequence[Values], row: int) -> Values:
        for cache, own in zip(self.caches, values, strict=True):
            if len(own) != cache.tokens:
                raise DataError(
                    f"{cache.where(row)}: {len(own)} rows of features, and {cache.tokens} of other images; those that "
                    "are mixed are of one shape"
                )
        joined: Values = np.concatenate([own.reshape(1, -1) for own in values], axis=1)
        return joined


def open_features(names: str) -> FeatureCache | JointFeatures:
    """The cache of that name, or several whose names are divided by commas. Raises DataError as both do."""
    caches = [FeatureCache(name) for name in paths.several(names)]
    return caches[0] if len(caches) == 1 else JointFeatures(caches)


def _check_same(first: FeatureCache, other: FeatureCache) -> None:
    """Raise DataError if the rows are not those of the same images."""
    if len(first) != len(other):
        raise DataError(
            f"{other.path} has {len(other)} rows and {first.path} has {len(first)}: expected features of the "
            "same images"
        )
    same_keys = np.array_equal(first.block.keys, other.block.keys)
    if not same_keys or not np.array_equal(first.block.key_ends, other.block.key_ends):
        row = next(row for row in range(len(first)) if first[row].key != other[row].key)
        raise DataError(
            f"{other.where(row)}: the key is {other[row].key!r}, and {first[row].key!r} in {first.path}: expected "
            "features of the same images in the same order"
        )
    first.check_same_inputs(other)
