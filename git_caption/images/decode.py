"""Bytes of an image file to an RGB picture."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from git_caption.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte of RGB

ORIENTATION_TAG = 0x0112
# How to lay out what was stored with each EXIF orientation; 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, *, exif: bool = True, max_pixels: int = MAX_PIXELS, shorter_side: int | None = None
) -> Image.Image:
    """The picture in `data`, loaded, in mode RGB.

    Any format Pillow reads; of an animation the first frame. The EXIF orientation is applied unless `exif` is False (to
    a TIFF always: Pillow does it, so old tools did), transparency is laid over white, of 16-bit grey the high byte is
    taken (as Pillow does of 16-bit colour). A JPEG is scaled to a half, a quarter or an eighth while it is decoded,
    which is several times faster, where its shorter side stays at `shorter_side` or above; with None it never is.

    Raises DataError with the cause: no bytes, not an image, truncated or damaged, a mode without a known range (float),
    more than `max_pixels` pixels.
    """
    if not data:
        raise DataError("the image has zero bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns on stderr of what the check below refuses, and of damaged metadata we do not use.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"the image has {width} x {height} pixels, more than the {max_pixels} allowed")
            if shorter_side is not None:
                image.draft(None, (shorter_side, shorter_side))
            image.load()
            turn = UPRIGHT.get(_orientation(image)) if exif else None
            rgb = to_rgb(image)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"the image has more than the {max_pixels} pixels allowed ({error})") from error
    except UnidentifiedImageError as error:
        raise DataError(f"not an image: {_beginning(data)}") from error
    except (
        Exception
    ) as error:  # Pillow's readers raise nearly any kind on damaged bytes: OSError, SyntaxError, struct...
        raise DataError(
            f"damaged or truncated image: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    return rgb if turn is None else rgb.transpose(turn)


def jpeg_scale(data: bytes, shorter_side: int) -> int:
    """By how much `decode` divides the sides of this picture: 1, 2, 4 or 8. 1 also where `decode` would raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data))  # the header alone
            width = image.width
            image.draft(None, (shorter_side, shorter_side))
            return round(width / image.width)
    except Exception:  # what is wrong with the picture is told where it is decoded
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, KeyError, OSError, struct.error):
        return 1  # metadata that cannot be read: the picture itself is sound, viewers show it as stored
    return value if isinstance(value, int) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode in RGB: transparency over white, of 16 bits the upper 8.

    Raises:
        DataError: values without a known range.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bits(image)
    if image.mode == "F":
        raise DataError("the image's pixels are floats of no known range, expected 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise DataError(f"the image's grey values run from {lowest} to {highest}, expected 0 to 65535 (16 bits)")
    grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _beginning(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return (
            f"an HTML page of {len(data)} bytes (beginning {data[:24]!r}), most likely an error page saved as an image"
        )
    if b"<svg" in start:
        return "an SVG drawing; expected JPEG, PNG, WebP, GIF, BMP or TIFF"
    return f"{len(data)} bytes beginning {data[:16]!r}, expected JPEG, PNG, WebP, GIF, BMP or TIFF"
