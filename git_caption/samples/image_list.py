"""Image files with their captions, listed in memory: what COCO, tables, JSON lists and Flickr come down to."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from git_caption.errors import DataError
from git_caption.samples.packed import PackedTexts
from git_caption.samples.training_data import Texts, caption_fault, checked_texts, read_image


class ImageList:
    """A data set of image files: fulfils `TrainingData`. Filled by `add`, entry by entry, then closed by `close`.

    Captions of one image (of one name and key) become one row, at the place of the first, in the order of the entries.
    An entry that is broken becomes a row that raises its cause. A caption that cannot be used is left out.
    Memory: the UTF-8 of keys, names and captions, 32 bytes a row and 16 a caption; it goes to worker processes as it
    is. Until `close` there is a dict of the names beside.

    Args:
        kind: the format in words.
        source: the file that lists the images.
        folders: where images lie, tried in this order; a name may also be absolute.
        unit: what an entry of the file is; "line" is shown as `file:7`, others as `file, entry 7`.
    """

    missing = 0

    def __init__(self, kind: str, source: Path, folders: Sequence[Path], unit: str) -> None:
        self.kind = kind
        self.inputs: tuple[Path, ...] = (source,)
        self.folders = tuple(folders)
        self.unit = unit
        self.own_names = False  # files have names of their own: they may lie in no folder, or in another
        self._keys = PackedTexts()
        self._names = PackedTexts()
        self._numbers = array("q")  # of the row's first entry in the file, 1-based
        self._captions = PackedTexts()
        self._rows = array("q")  # the row of each caption
        self._faults: dict[int, str] = {}
        self._left_out: dict[int, list[str]] = {}  # captions of a row that cannot be used, where and why
        self._row_of: dict[tuple[str, str], int] = {}

    def add(self, number: int, name: object, captions: object, key: str | None = None) -> None:
        """Adds an entry, as it was read: a name and a caption or a list of captions.

        number: of the entry in the file, 1-based. key: of the image, its name where there is none.
        """
        texts = [captions] if isinstance(captions, str) else captions
        if not isinstance(name, str) or not name.strip():
            self.add_fault(number, f"the image is {_short(name)}, expected the name of a file")
        elif not isinstance(texts, list | tuple):
            self.add_fault(number, f"the caption is {_short(captions)}, expected a text or a list of texts")
        else:
            key = name if key is None else key
            row = self._row_of.get((key, name))
            if row is None:
                row = self._row_of[key, name] = self._new_row(number, name, key)
            for text in texts:
                if (fault := caption_fault(text)) is None:
                    self._captions.append(text)
                    self._rows.append(row)
                else:
                    self._left_out.setdefault(row, []).append(f"{self._entry(number)} ({name}): {fault}")

    def add_fault(self, number: int, cause: str) -> None:
        """Adds an entry that cannot be used."""
        self._faults[self._new_row(number, "", "")] = cause

    def _new_row(self, number: int, name: str, key: str) -> int:
        self._keys.append(key)
        self._names.append(name)
        self._numbers.append(number)
        return len(self._numbers) - 1

    def close(self) -> ImageList:
        """The data set, complete. Raises DataError if nothing was added."""
        if not self._numbers:
            raise DataError(f"{self.inputs[0]}: no entry, expected images with captions")
        self._row_of.clear()
        rows = np.frombuffer(self._rows, dtype=np.int64)
        self._order = np.argsort(rows, kind="stable")  # captions by row
        self._begins = np.searchsorted(rows[self._order], np.arange(len(self) + 1))
        self._rows = array("q")
        return self

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def has_captions(self) -> bool:
        """Whether any image has one, be it one that cannot be used; also where no entry can be read at all."""
        return len(self._captions) > 0 or bool(self._left_out) or len(self._faults) == len(self)

    def key(self, row: int) -> str:
        """The image's own name or number in the data set; empty for an entry that is broken."""
        return self._keys[row]

    def texts(self, row: int) -> Texts:
        """Key and captions. Raises DataError if the entry is broken or has no caption."""
        if row in self._faults:
            raise DataError(f"{self.where(row)}: {self._faults[row]}")
        numbers = self._order[self._begins[row] : self._begins[row + 1]]
        captions = [self._captions[int(number)] for number in numbers]
        return checked_texts(self._keys[row], captions, self.where(row), self._left_out.get(row, ()))

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        if row in self._faults:
            raise DataError(f"{self.where(row)}: {self._faults[row]}")
        name = self._names[row]
        if Path(name).is_absolute():
            return read_image([Path(name)], self._place(row))
        names = dict.fromkeys((name, Path(name).name)) if self.own_names else (name,)
        return read_image([folder / each for each in names for folder in self.folders], self._place(row))

    def where(self, row: int) -> str:
        """File, entry and image."""
        return f"{self._place(row)} ({self._names[row]})" if self._names[row] else self._place(row)

    def _place(self, row: int) -> str:
        return self._entry(self._numbers[row])

    def _entry(self, number: int) -> str:
        return f"{self.inputs[0]}:{number}" if self.unit == "line" else f"{self.inputs[0]}, {self.unit} {number}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
