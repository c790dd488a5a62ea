"""Pictures to the pixels that an image encoder takes: decoded, then resized."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from git_caption.errors import DataError, UsageError
from git_caption.images.augment import Augmentation
from git_caption.images.decode import decode, jpeg_scale, to_rgb
from git_caption.images.processor import Preparation
from git_caption.images.strip import Strip

Picture = bytes | str | Path | Image.Image  # the bytes of an image file, its path, or a picture in memory
Frames = Picture | Sequence[Picture]  # an image, or the frames of a video

# A JPEG is decoded to no less than this many times the side it is resized to. At 3 the pixels of real photographs are
# half a grey level off in the mean and 1.5 in the worst picture; at 2 they are 1 and, of fine patterns, 11.
SPARE = 3


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file's bytes into pixels, the same in every process; needs no torch.

    exif: turn the picture as its EXIF orientation says.
    exact_decode: decode large JPEGs in full too, instead of scaling them down on the way.
    augmentation: what is changed at random before the picture is resized, where there is something to draw with.
    """

    transform: Preparation
    exif: bool = True
    exact_decode: bool = False
    augmentation: Augmentation | None = None

    def __call__(self, data: bytes, rng: random.Random | None = None) -> npt.NDArray[np.uint8]:
        """Gives uint8[3, H, W]; H and W as the transform says. Raises DataError as `decode` and `Transform` do."""
        if self.augmentation is not None and rng is not None:
            return self.transform(self.augmentation(self._decoded(data, self.transform.shorter_side), rng))
        if isinstance(self.transform, Strip):
            return self.transform.of(self._decoded_once(data))
        return self.transform(self._decoded(data, self.transform.shorter_side))

    def _decoded(self, data: bytes, side: int | None) -> Image.Image:
        """The picture for a transform that resizes it to `side`."""
        enough = None if self.exact_decode or side is None else SPARE * side
        return decode(data, exif=self.exif, shorter_side=enough)

    def _decoded_once(self, data: bytes) -> Callable[[int], Image.Image]:
        """As `_decoded`, which is asked again only where a large JPEG is scaled otherwise for another side."""
        pictures: dict[int, Image.Image] = {}

        def picture(side: int) -> Image.Image:
            scale = 1 if self.exact_decode else jpeg_scale(data, SPARE * side)
            if scale not in pictures:
                pictures[scale] = self._decoded(data, side)
            return pictures[scale]

        return picture

    def frames(self, image: Frames) -> npt.NDArray[np.uint8]:
        """uint8[F, 3, H, W] of an image (F = 1) or of the frames of a video.

        Raises:
            DataError: it cannot be decoded; names the file, where it is one. Or frames differ in shape.
            UsageError: it is no picture, there is no such file, or no frame at all.
        """
        pictures = [image] if isinstance(image, Picture) else image
        if not isinstance(pictures, Sequence) or not all(isinstance(picture, Picture) for picture in pictures):
            raise UsageError(
                f"an image is a {type(image).__name__}; expected the bytes of an image file, its path, a PIL image "
                "(Image.fromarray makes one of an array), or a list of these, the frames of a video"
            )
        if not pictures:
            raise UsageError("an image is an empty list; at least one frame is expected")
        pixels = [self._frame(picture) for picture in pictures]
        shapes = sorted({(frame.shape[2], frame.shape[1]) for frame in pixels})
        if len(shapes) > 1:
            seen = ", ".join(f"{width} x {height}" for width, height in shapes)
            raise DataError(f"the frames of a video differ in shape: resized they are {seen}; expected one shape")
        return np.stack(pixels)

    def _frame(self, picture: Picture) -> npt.NDArray[np.uint8]:
        if isinstance(picture, Image.Image):
            return self.transform(self._rgb(picture))
        if isinstance(picture, bytes):
            return self(picture)
        try:
            return self(Path(picture).read_bytes())
        except OSError as error:
            raise UsageError(f"{str(picture)!r}: the image cannot be read: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"{picture}: {error}") from error

    def _rgb(self, picture: Image.Image) -> Image.Image:
        """A picture in memory, treated as its file would be."""
        if not all(picture.size):
            raise DataError(f"the image is {picture.width} x {picture.height}; expected at least one pixel")
        return to_rgb(ImageOps.exif_transpose(picture) if self.exif else picture)
