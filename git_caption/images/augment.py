"""Pictures changed at random for training, so that no two epochs see the same pixels."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image

SMALLEST_PART = 0.8  # of a picture's area


@dataclass(frozen=True)
class Augmentation:
    """Cuts out a part of a picture, of its shape and 0.8 to 1 of its area; with `flip` half of them are mirrored."""

    flip: bool = False

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The picture changed as `rng` draws."""
        side = math.sqrt(rng.uniform(SMALLEST_PART, 1))
        width, height = (max(1, round(side * whole)) for whole in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        part = image.crop((left, top, left + width, top + height))
        mirrored = self.flip and rng.random() < 0.5
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
