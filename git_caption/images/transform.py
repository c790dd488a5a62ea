"""RGB pictures to pixels: resized and cropped to uint8 in worker processes, normalised as float32 where the model runs.

Together they equal torchvision's Resize, CenterCrop, ToTensor and Normalize on a PIL image, bit for bit, and with them
`open_clip.image_transform(resolution, is_train=False, mean=..., std=...)`. Workers need no torch, and uint8 is a
quarter of what float32 would send between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from git_caption.errors import DataError

if TYPE_CHECKING:
    import torch

MAX_RESIZED_PIXELS = 1 << 26

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Transform:
    """Resizes a picture to the square that an image encoder takes.

    crop: the shorter side becomes `resolution`, and the middle square is cut out.
    squash: both sides become `resolution`.

    Raises DataError for a picture so narrow that scaling it would take more than 64 million pixels.
    """

    resolution: int
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["crop", "squash"] = "crop"

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, resolution, resolution] of an RGB picture."""
        size = self.resolution
        if self.resize == "squash":
            squashed = image.resize((size, size), FILTERS[self.interpolation])
            return np.ascontiguousarray(np.asarray(squashed).transpose(2, 0, 1))
        width, height = image.size
        long = int(size * max(width, height) / min(width, height))
        if size * long > MAX_RESIZED_PIXELS:
            raise DataError(
                f"the image is {width} x {height}: its shorter side scaled to {size}, the longer one would be {long}; "
                f"expected at most {MAX_RESIZED_PIXELS // size}"
            )
        resized = (size, long) if width <= height else (long, size)
        if resized != image.size:
            image = image.resize(resized, FILTERS[self.interpolation])
        left, top = (round((side - size) / 2.0) for side in resized)  # Python's rounding to even, as torchvision's
        square = image.crop((left, top, left + size, top + size))
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def normalise(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Gives `(pixels / 255 - mean) / std`, a channel at a time, on the device of `pixels`.

    pixels: uint8[..., 3, H, W]. Result: float32 of the same shape.
    """
    import torch  # not at the top: worker processes import this module and need no torch

    scaled = pixels.to(torch.float32).div_(255)
    by_channel = [
        torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None] for values in (mean, std)
    ]
    return scaled.sub_(by_channel[0]).div_(by_channel[1])
