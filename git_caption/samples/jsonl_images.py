"""JSONL that names images: an object a line, with the path of an image and, where it has one, a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from git_caption.errors import DataError, UsageError
from git_caption.samples.columns import IMAGE, KEY, known
from git_caption.samples.training_data import read_image
from git_caption.tsv.index import scan


class JsonlImages:
    """The images of the lines, in their order; blank lines are passed over. Fulfils `ImageRows`.

    A path is absolute or relative to the file's folder, or to `images/` in it. The key is that of the first column
    called `key`, `id`, ..., else the path as it stands.
    Memory: 16 bytes a line. Raises UsageError if the file cannot be opened or its first line names no image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._size = file.seek(0, 2)
        except OSError as error:
            raise UsageError(f"{path}: cannot open this JSONL file: {error.strerror}") from error
        starts = np.concatenate([np.empty(0, dtype=np.int64), *scan(path)])
        ends = np.append(starts[1:], self._size)
        lines = np.flatnonzero(ends - starts > len("\r\n"))  # no object is as short as a blank line
        self._lines = np.stack([starts[lines], ends[lines]])
        self._numbers = lines
        if not len(self):
            raise DataError(f"{path}: no line in it, expected a JSON object for each image")
        first = self._entry(0)
        image = known(list(first), IMAGE)
        if image is None:
            raise UsageError(f"{self.where(0)}: none of {', '.join(map(repr, first))} is {', '.join(IMAGE)}")
        self.image_column, self.key_column = image, known(list(first), KEY)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def __len__(self) -> int:
        return len(self._numbers)

    def key(self, row: int) -> str:
        """The key, else the image's path. Raises DataError if the line is broken or has neither."""
        entry = self._entry(row)
        name = self.image_column if self.key_column is None else self.key_column
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{self.where(row)}: {name!r} is {json.dumps(value)[:60]}, expected a text or a number")
        return str(value)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image`, DataError if the line is broken."""
        name = self._entry(row).get(self.image_column)
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{self.where(row)}: {self.image_column!r} is {json.dumps(name)[:60]}, expected the path of an image"
            )
        return read_image([self.path.parent / name, self.path.parent / "images" / name], self.where(row))

    def where(self, row: int) -> str:
        """File and line, 1-based."""
        return f"{self.path}:{self._numbers[row] + 1}"

    def _entry(self, row: int) -> dict[str, Any]:
        start, end = self._lines[:, row].tolist()
        with open(self.path, "rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(row)}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise DataError(f"{self.where(row)}: a JSON {type(entry).__name__}, expected an object")
        return entry
