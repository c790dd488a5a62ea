"""webdataset's tars: files of one sample side by side, `key.jpg` and `key.txt` or `key.json`.

Rows are read by their place in the uncompressed tar. Nothing is extracted, and no member's name is used as a path.
"""

from __future__ import annotations

import glob
import json
import os
import re
from array import array
from itertools import product
from pathlib import Path

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples.columns import CAPTION
from git_caption.samples.packed import PackedTexts
from git_caption.samples.tar_index import TarSample, samples
from git_caption.samples.training_data import LARGEST_IMAGE, Texts, checked_texts

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("txt", "caption", "json")  # the first that a sample has is taken
LARGEST_TEXT = 1 << 20  # bytes
MOST_TARS = 1_000_000
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class WebDataset:
    """The samples of some tars: fulfils `TrainingData`. Their headers are read once, when it is first opened.

    That takes some 30 s for a million members; an index beside each tar then tells. Worker processes are handed what
    was found.

    Memory: 45 bytes a sample and the UTF-8 of its key; of the tar whose headers are being read about 1 kB a member.
    Raises UsageError if there is no tar, DataError if one is damaged, compressed or there is no sample at all.
    """

    kind = "webdataset tars"
    missing = 0

    def __init__(self, tars: list[Path]) -> None:
        self.inputs = tuple(tars)
        self._sizes = array("q")  # of the tars
        self._tar = array("i")
        self._keys = PackedTexts()
        self._image = array("q")  # offset and size, 0 and -1 where there is none
        self._text = array("q")
        self._json = bytearray()  # whether the text is JSON
        for number, path in enumerate(tars):
            self._sizes.append(_size(path))
            for sample in samples(path):
                if sample.members.keys() & {*IMAGES, *TEXTS}:
                    self._add(number, sample)
        if not self._tar:
            raise DataError(f"{tars[0]}: no sample in the tars, expected KEY.jpg beside KEY.txt or KEY.json")

    def _add(self, number: int, sample: TarSample) -> None:
        self._tar.append(number)
        self._keys.append(sample.key)
        self._image.extend(sample.first(IMAGES)[1])
        extension, place = sample.first(TEXTS)
        self._text.extend(place)
        self._json.append(extension == "json")

    def __len__(self) -> int:
        return len(self._tar)

    def texts(self, row: int) -> Texts:
        """Key and captions. Raises DataError if there is no text or it holds no caption."""
        where = self.where(row)
        offset, size = self._text[2 * row : 2 * row + 2]
        if size < 0:
            raise DataError(f"{where}: no caption, expected a member {', '.join(TEXTS)} beside the image")
        if size > LARGEST_TEXT:
            raise DataError(f"{where}: the caption has {size} bytes, expected at most {LARGEST_TEXT}")
        data = self._read(row, offset, size)
        if self._json[row]:
            return checked_texts(self._keys[row], _captions(data, where), where)
        return checked_texts(self._keys[row], [data.decode("utf-8", "surrogateescape").strip()], where)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage if the sample has none, DataError if it is past `LARGEST_IMAGE`."""
        offset, size = self._image[2 * row : 2 * row + 2]
        if size < 0:
            raise MissingImage(f"{self.where(row)}: no image, expected a member {', '.join(IMAGES)}")
        if size > LARGEST_IMAGE:
            raise DataError(f"{self.where(row)}: the image has {size} bytes, expected at most {LARGEST_IMAGE}")
        return self._read(row, offset, size)

    def where(self, row: int) -> str:
        """Tar and sample."""
        return f"{self.inputs[self._tar[row]]}, sample {self._keys[row]!r}"

    def _read(self, row: int, offset: int, size: int) -> bytes:
        number = self._tar[row]
        path = self.inputs[number]
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size != self._sizes[number]:
                    raise DataError(f"{path}: the tar changed while it was in use; start again once it is complete")
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{self.where(row)}: cannot be read: {error.strerror}") from error


def tars_of(pattern: str) -> list[Path]:
    """The tars that a path, `shards/{00000..00012}.tar` or a glob pattern names, in order.

    Raises UsageError if one is not there or the pattern names none, or too many.
    """
    ranges = RANGE.findall(pattern)
    if not ranges and glob.has_magic(pattern) and not os.path.lexists(pattern):
        found = sorted(glob.glob(pattern))
        if not found:
            raise UsageError(f"no file matches {pattern!r}")
        return [Path(path) for path in found]
    count = 1
    for first, last in ranges:
        count *= int(last) - int(first) + 1
    if not 0 < count <= MOST_TARS:
        raise UsageError(f"{pattern!r} names {max(0, count)} tars, expected 1 to {MOST_TARS}")
    parts = RANGE.sub("\0", pattern).split("\0")
    numbers = [[f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)] for first, last in ranges]
    names = (
        "".join(text for pair in zip(parts, (*chosen, ""), strict=True) for text in pair)
        for chosen in product(*numbers)
    )
    tars = [Path(name) for name in names]
    absent = [str(path) for path in tars if not path.is_file()]
    if absent:
        raise UsageError(f"{len(absent)} of {len(tars)} tars are not there: {', '.join(absent[:3])}")
    return tars


def _captions(data: bytes, where: str) -> list[str]:
    """The captions in a sample's JSON: a text, a list of texts, or an object with one of these under a known name."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its JSON cannot be read: {error}") from error
    if isinstance(value, dict):
        value = next((value[name] for name in CAPTION if value.get(name)), None)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: no caption in its JSON, expected it under {', '.join(CAPTION)}")
    return texts


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path}: cannot open this tar: {error.strerror}") from error
