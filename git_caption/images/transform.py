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
    """Resizes a picture to what an image encoder takes.

    crop: the shorter side becomes `resolution`, and the middle square is cut out.
    squash: both sides become `resolution`.
    keep: the shorter side becomes `resolution`, or less where the longer one would pass `longest`. Nothing is cut but
    what is no whole `cell` (the pixels along a patch of the encoder) at the right and at the bottom. These are
    GenerativeImage2Text's `test_crop_size` and `test_respect_ratio_max`.

    Raises DataError for a picture so narrow that scaling it would take more than 64 million pixels or leave no cell.
    """

    resolution: int
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["crop", "squash", "keep"] = "crop"
    longest: int | None = None
    cell: int = 1

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, resolution, resolution] of an RGB picture; uint8[3, H, W] where its shape is kept."""
        width, height = self._resized(*image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), FILTERS[self.interpolation])
        if self.resize == "crop":
            size = self.resolution
            left, top = (round((side - size) / 2.0) for side in (width, height))  # to even, as torchvision rounds
            image = image.crop((left, top, left + size, top + size))
        elif self.resize == "keep":
            image = image.crop((0, 0, width - width % self.cell, height - height % self.cell))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    @property
    def shorter_side(self) -> int:
        """The longest that the shorter side of a resized picture can be."""
        return self.resolution

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to resize to."""
        if self.resize == "squash":
            return self.resolution, self.resolution
        short, long = sorted((width, height))
        size = self.resolution
        bound = self.longest if self.resize == "keep" else None
        if bound is not None and long / short * size > bound:
            size = round(bound * short / long)
            if size < self.cell:
                raise DataError(
                    f"the image is {width} x {height}: its longer side scaled to {bound}, the shorter one would be "
                    f"{size}; expected at least {self.cell}"
                )
        other = int(size * long / short)
        if size * other > MAX_RESIZED_PIXELS:
            raise DataError(
                f"the image is {width} x {height}: its shorter side scaled to {size}, the longer one would be {other}; "
                f"expected at most {MAX_RESIZED_PIXELS // size}"
            )
        return (size, other) if width <= height else (other, size)


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
