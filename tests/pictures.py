"""Small image files, and what a data set says, for tests."""

from __future__ import annotations

import io

from PIL import Image

from git_caption.errors import DataError
from git_caption.images.decode import decode
from git_caption.samples.training_data import TrainingData


def jpeg(level: int) -> bytes:
    """A grey picture of 10 x 8 pixels."""
    return picture(level, "JPEG", quality=95)


def picture(level: int, kind: str, **options: object) -> bytes:
    """A grey picture in a format of Pillow's."""
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (level, level, level)).save(buffer, kind, **options)
    return buffer.getvalue()


def level(image: bytes) -> int:
    """The grey level of such a picture, to the next ten."""
    return round(decode(image).getpixel((0, 0))[0] / 10) * 10


def contents(data: TrainingData) -> list[tuple[str, tuple[str, ...], int]]:
    """Key, captions and grey level of each row."""
    found = [(data.texts(row), data.image(row)) for row in range(len(data))]
    return [(texts.key, texts.captions, level(image)) for texts, image in found]


def fault(data: TrainingData, row: int) -> str:
    """What is wrong with a row; empty where nothing is."""
    try:
        data.texts(row)
        data.image(row)
    except DataError as error:
        return str(error)
    return ""
