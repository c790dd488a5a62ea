"""Images as transformers' image processors prepare them: uint8 in workers, normalised where the model runs.

The processors' Pillow implementation counts: Pillow resized the images these models were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from git_caption.errors import DataError, WeightsError, reason
from git_caption.images.transform import MAX_RESIZED_PIXELS

LONGEST_SIDE = 2048  # of a picture that is kept whole: a chunk of them has to fit into memory


class Preparation(Protocol):
    """From an RGB picture to pixels that `normalise` takes: uint8[3, H, W], or float32 where nothing is left to do."""

    def __call__(self, image: Image.Image) -> npt.NDArray[Any]:
        """Prepare one picture."""

    @property
    def shorter_side(self) -> int | None:
        """The longest that the shorter side of a resized picture can be; None where all of a picture is needed."""


@dataclass(frozen=True)
class Resized:
    """A resize and a centre crop as the processors do them; needs no transformers, so that workers start at once.

    size: (height, width), or the length of the shorter side. crop: (height, width), None for none.
    """

    size: tuple[int, int] | int
    resample: Image.Resampling
    crop: tuple[int, int] | None = None

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, H, W]. Raises DataError for a picture so narrow that the resized one would be huge."""
        height, width = self._size(image)
        pixels = np.asarray(image.resize((width, height), self.resample))
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            pixels = pixels[top : top + self.crop[0], left : left + self.crop[1]]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    @property
    def shorter_side(self) -> int:
        """The longest that the shorter side of a resized picture can be."""
        return self.size if isinstance(self.size, int) else max(self.size)

    def _size(self, image: Image.Image) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        width, height = image.size
        long = int(self.size * max(width, height) / min(width, height))
        if self.size * long > MAX_RESIZED_PIXELS:
            raise DataError(
                f"the image is {width} x {height}: its shorter side scaled to {self.size}, the longer one would be "
                f"{long}; expected at most {MAX_RESIZED_PIXELS // self.size}"
            )
        return (self.size, long) if height <= width else (long, self.size)


@dataclass(frozen=True)
class Processed:
    """The processor itself, for one that does more than a resize and a crop."""

    processor: Any

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Gives float32[3, H, W], normalised."""
        found = self.processor(image, return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(found, dtype=np.float32)

    @property
    def shorter_side(self) -> None:
        """All of a picture is needed."""


@dataclass(frozen=True)
class Whole:
    """The picture as it is, for a model whose processor sees picture and prompt together; a huge one is scaled down."""

    longest: int = LONGEST_SIDE

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, H, W]."""
        if max(image.size) > self.longest:
            scale = self.longest / max(image.size)
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    @property
    def shorter_side(self) -> None:
        """All of a picture is needed."""


def load_processor(folder: Path) -> Any:
    """The image processor in a model's folder, on Pillow.

    Raises:
        WeightsError: there is none, or it cannot be loaded.
    """
    from transformers import AutoImageProcessor

    auto: Any = AutoImageProcessor
    try:
        return auto.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged descriptions make transformers raise nearly any kind
        raise WeightsError(
            f"{folder}: no loadable image processor (preprocessor_config.json): {reason(error)}"
        ) from error


# Processors that resize, crop, rescale and normalise as the common base class does, and nothing else.
PLAIN = {"BlipImageProcessor", "CLIPImageProcessor", "DeiTImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"}
Values = tuple[float, ...]


def prepared(processor: Any) -> tuple[Preparation, Values, Values]:
    """What the processor does in two steps: a preparation, and the (mean, std) that `normalise` takes after it.

    Resize and crop are our own code where that does the same; else the processor itself runs and nothing is left to do.
    """
    resized = _resized(processor)
    if resized is None:
        return Processed(processor), (0.0,) * 3, (1 / 255,) * 3  # undoes the division that `normalise` begins with
    factor = float(processor.rescale_factor) * 255 if processor.do_rescale else 255.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return resized, tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _resized(processor: Any) -> Resized | None:
    """The processor's resize and crop; None where it does something else."""
    plain = type(processor).__name__.removesuffix("Pil") in PLAIN and processor.do_resize
    if not plain or getattr(processor, "pad_size", None):  # without a size, padding makes the images of a batch equal
        return None
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    cropped = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", False) and crop else None
    scaled: tuple[int, int] | int
    if set(size) == {"height", "width"}:
        scaled = (size["height"], size["width"])
    elif set(size) == {"shortest_edge"} and cropped is not None:
        scaled = size["shortest_edge"]
    else:
        return None
    if cropped is not None and max(cropped) > min(size.values()):  # it pads where the crop is the larger one
        return None
    return Resized(scaled, Image.Resampling(processor.resample), cropped)
