"""One picture as several image encoders see it: the pixels of all of them in one strip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from git_caption.images.transform import Transform


@dataclass(frozen=True)
class Strip:
    """Resizes a picture for each of several image encoders, whose pixels follow one another.

    The transforms give squares. Raises DataError as they do.
    """

    transforms: tuple[Transform, ...]

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, 1, S] of an RGB picture, S the sum of the encoders' squared resolutions."""
        return self.of(lambda side: image)

    def of(self, picture: Callable[[int], Image.Image]) -> npt.NDArray[np.uint8]:
        """The strip of a picture that is asked for by the side that a transform resizes it to."""
        squares = [transform(picture(transform.shorter_side)) for transform in self.transforms]
        return np.concatenate([square.reshape(3, 1, -1) for square in squares], axis=2)

    @property
    def shorter_side(self) -> int:
        """The longest that the shorter side of a resized picture can be."""
        return max(transform.shorter_side for transform in self.transforms)
