"""webdataset's tars: files of one sample side by side, `key.jpg` and `key.txt` or `key.json`.

    000000012.jpg            the image
    000000012.txt            a caption; in its place .caption, or .json: a text, a list, or an object with one of these
    000000012.json           where it is an object with a "key", that is the sample's key in place of 000000012
    000000012.caption.json   what a caption TSV has in its second column, goes before the others
    000000012.question.json  what a question TSV has there

Rows are read by their place in the uncompressed tar. Nothing is extracted, and no member's name is used as a path.
"""

from __future__ import annotations

import glob
import json
import os
import re
from array import array
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples.columns import CAPTION
from git_caption.samples.packed import PackedTexts
from git_caption.samples.tar_index import TarSample, samples
from git_caption.samples.training_data import LARGEST_IMAGE, Column, Texts, checked_texts, said
from git_caption.tsv.rows import parse_caption_row, parse_question_row

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTION_COLUMN, QUESTION_COLUMN = "caption.json", "question.json"
TEXTS = (CAPTION_COLUMN, "txt", "caption", "json")  # the first that a sample has is taken
LARGEST_TEXT = 1 << 20  # bytes
MOST_TARS = 1_000_000
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class WebDataset:
    """The samples of some tars: fulfils `TrainingData`. Their headers are read once, when it is first opened.

    That takes some 30 s for a million members; an index beside each tar then tells. Worker processes are handed what
    was found.

    Memory: 77 bytes a sample and the UTF-8 of its key; of the tar whose headers are being read about 1 kB a member.
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
        self._kind = bytearray()  # of the text, as its place in TEXTS
        self._object = array("q")  # `.json`
        self._questions = array("q")
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
        self._kind.append(TEXTS.index(extension) if extension else 0)
        self._object.extend(sample.first(("json",))[1])
        self._questions.extend(sample.first((QUESTION_COLUMN,))[1])

    def __len__(self) -> int:
        return len(self._tar)

    def key(self, row: int) -> str:
        """What the sample's `.json` says, else the name of its files."""
        with suppress(DataError, ValueError, RecursionError):  # then it has none
            value = json.loads(self._content(row, self._object, "JSON") or b"null")
            if isinstance(value, dict) and isinstance(value.get("key"), str):
                return str(value["key"])
        return self._keys[row]

    def texts(self, row: int) -> Texts:
        """Key, captions, and the questions that have answers. Raises DataError if no caption can be used."""
        where, key = self.where(row), self.key(row)
        data = self._content(row, self._text, "caption")
        if data is None:
            raise DataError(f"{where}: no caption, expected a member {', '.join(TEXTS[1:])} beside the image")
        kind = TEXTS[self._kind[row]]
        captions: list[Any]
        if kind == CAPTION_COLUMN:
            captions = list(parse_caption_row((key, self._decoded(data, where)), where).captions)
        else:
            captions = _captions(data, where) if kind == "json" else [data.decode("utf-8", "surrogateescape").strip()]
        texts = checked_texts(key, captions, where)
        questions = self._content(row, self._questions, "question JSON")
        if questions is None:
            return texts
        asked = parse_question_row((key, self._decoded(questions, where)), where).questions
        return replace(texts, questions=tuple(question for question in asked if said(question)))

    def column(self, row: int, column: Column) -> str | None:
        """The sample's `caption.json` or `question.json` as it stands, None without one. Raises DataError."""
        if column == "captions" and TEXTS[self._kind[row]] != CAPTION_COLUMN:
            return None
        data = self._content(row, self._text if column == "captions" else self._questions, column)
        return None if data is None else self._decoded(data, self.where(row))

    @property
    def has_captions(self) -> bool:
        """Whether any sample has one; those whose only text is `.json` are read until one is found."""
        there = [row for row in range(len(self)) if self._text[2 * row + 1] >= 0]
        return any(TEXTS[self._kind[row]] != "json" for row in there) or any(map(self._has_caption, there))

    @property
    def has_questions(self) -> bool:
        """Whether any sample has a `question.json`."""
        return any(size >= 0 for size in self._questions[1::2])

    def _has_caption(self, row: int) -> bool:
        try:
            self.texts(row)
        except DataError:
            return False
        return True

    def _content(self, row: int, places: array[int], noun: str) -> bytes | None:
        """The text at the row's place; None where there is none."""
        offset, size = places[2 * row : 2 * row + 2]
        if size < 0:
            return None
        if size > LARGEST_TEXT:
            raise DataError(f"{self.where(row)}: the {noun} has {size} bytes, expected at most {LARGEST_TEXT}")
        return self._read(row, offset, size)

    @staticmethod
    def _decoded(data: bytes, where: str) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: its texts are not UTF-8") from error

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


def tars_of(pattern: str, noun: str = "tars") -> list[Path]:
    """The tars (or files called `noun`) that a path, `shards/{00000..00012}.tar` or a glob pattern names, in order.

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
        raise UsageError(f"{pattern!r} names {max(0, count)} {noun}, expected 1 to {MOST_TARS}")
    parts = RANGE.sub("\0", pattern).split("\0")
    numbers = [[f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)] for first, last in ranges]
    names = (
        "".join(text for pair in zip(parts, (*chosen, ""), strict=True) for text in pair)
        for chosen in product(*numbers)
    )
    tars = [Path(name) for name in names]
    absent = [str(path) for path in tars if not path.is_file()]
    if absent:
        raise UsageError(f"{len(absent)} of {len(tars)} {noun} are not there: {', '.join(absent[:3])}")
    return tars


def _captions(data: bytes, where: str) -> list[Any]:
    """What stands for captions in a sample's JSON: a text, a list, or an object with one of these under a name."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its JSON cannot be read: {error}") from error
    if isinstance(value, dict):
        value = next((value[name] for name in CAPTION if value.get(name)), None)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise DataError(f"{where}: no caption in its JSON, expected it under {', '.join(CAPTION)}")
    return texts


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path}: cannot open this tar: {error.strerror}") from error
