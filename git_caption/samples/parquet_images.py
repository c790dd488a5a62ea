"""Parquet files with a column of images, as Hugging Face's data sets and `tsv_to_parquet` write them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from git_caption.errors import DataError, MissingImage, UsageError, reason
from git_caption.params.packages import PYARROW
from git_caption.samples.columns import IMAGE, KEY, find_column, known
from git_caption.samples.training_data import LARGEST_IMAGE, read_image

BATCH_ROWS = 16  # read at once; an image of them is some 100 kB


class ParquetImages:
    """The images of the rows, in their order. Fulfils `ImageRows`.

    An image is bytes, a path relative to the file's folder, or a record of both (`bytes`, `path`). The key is that of
    the first column called `key`, `id`, ..., else the number of the row from 0.
    Rows are read forwards, a few at a time: what is asked for in order costs one pass, and no row group is held whole.
    Raises UsageError if pyarrow is not installed, a file cannot be opened or has no column of images; DataError if one
    is damaged or has other columns than the first.
    """

    def __init__(self, paths: list[Path], image_column: str | None = None) -> None:
        """`image_column`: None: found by name."""
        self.inputs: tuple[Path, ...] = tuple(paths)
        files = [_opened(path) for path in paths]
        self.names: list[str] = files[0].schema_arrow.names
        if image_column is None:
            self.image_column = _image_column(files[0].schema_arrow, paths[0])
        else:
            self.image_column = find_column(self.names, image_column, IMAGE, "image_column", str(paths[0]))
        self.key_column = known(self.names, KEY)
        self._groups: list[tuple[int, int]] = []  # file and row group
        counts = []
        for number, (path, file) in enumerate(zip(paths, files, strict=True)):
            if absent := {self.image_column, self.key_column} - {None, *file.schema_arrow.names}:
                raise DataError(f"{path}: no column {', '.join(sorted(map(str, absent)))}, which {paths[0]} has")
            for group in range(file.num_row_groups):
                self._groups.append((number, group))
                counts.append(file.metadata.row_group(group).num_rows)
        self._begins = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # of the groups
        self._cursors: dict[str, _Cursor] = {}

    def __len__(self) -> int:
        return int(self._begins[-1])

    def key(self, row: int) -> str:
        """The row's key. Raises DataError if it is no text or number, or the file is damaged."""
        if self.key_column is None:
            return str(row)
        value = self.value(row, self.key_column)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{self.where(row)}: column {self.key_column!r} holds {value!r:.60}, expected a key")
        return str(value)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage, or DataError if the file is damaged."""
        value = self.value(row, self.image_column)
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(data, bytes):
            if len(data) > LARGEST_IMAGE:
                raise DataError(f"{self.where(row)}: the image has {len(data)} bytes, expected at most {LARGEST_IMAGE}")
            return data
        if isinstance(name, str) and name:
            return read_image([self._file(row).parent / name], self.where(row))
        raise MissingImage(f"{self.where(row)}: no image in column {self.image_column!r}")

    def value(self, row: int, column: str) -> Any:
        """What a column holds. Raises DataError if the file is damaged."""
        cursor = self._cursors.setdefault(column, _Cursor())
        group = int(np.searchsorted(self._begins, row, side="right")) - 1
        if cursor.group != group or row < cursor.begin:
            number, inside = self._groups[group]
            cursor.start(group, int(self._begins[group]), _opened(self.inputs[number]), inside, column)
        try:
            return cursor.value(row)
        except Exception as error:  # pyarrow raises many kinds on damaged files
            raise DataError(f"{self.where(row)}: column {column!r} cannot be read: {reason(error)}") from error

    def where(self, row: int) -> str:
        """File and row in it, 1-based."""
        group = int(np.searchsorted(self._begins, row, side="right")) - 1
        first = next(n for n, (number, _) in enumerate(self._groups) if number == self._groups[group][0])
        return f"{self._file(row)}, row {row - int(self._begins[first]) + 1}"

    def _file(self, row: int) -> Path:
        group = int(np.searchsorted(self._begins, row, side="right")) - 1
        return self.inputs[self._groups[group][0]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursors": {}}


class _Cursor:
    """A column of a row group, read forwards: `values` are those of the rows from `begin` on."""

    def __init__(self) -> None:
        self.group = -1
        self.begin = 0
        self.values: list[Any] = []
        self._batches: Iterator[Any] = iter(())

    def start(self, group: int, begin: int, file: Any, inside: int, column: str) -> None:
        """Goes to the beginning of a row group."""
        self.group, self.begin, self.values = group, begin, []
        self._batches = file.iter_batches(BATCH_ROWS, row_groups=[inside], columns=[column], use_threads=False)

    def value(self, row: int) -> Any:
        """The value of a row that is not before `begin`. Raises what pyarrow does."""
        while row >= self.begin + len(self.values):
            self.begin += len(self.values)
            batch = next(self._batches)
            self.values = batch.column(0)
        return self.values[row - self.begin].as_py()


def _opened(path: Path) -> Any:
    try:
        library = import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(f"{path}: {PYARROW}") from error
    try:
        return library.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot open this Parquet file: {reason(error)}") from error
    except Exception as error:  # pyarrow raises many kinds on damaged files
        raise DataError(f"{path}: not a complete Parquet file: {reason(error)}") from error


def _image_column(schema: Any, path: Path) -> str:
    """The column of bytes with a known name, else the only one of bytes, else one with a known name: of paths."""
    library = import_module("pyarrow").types
    binary = [
        field.name
        for field in schema
        if library.is_binary(field.type)
        or library.is_large_binary(field.type)
        or (library.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    found = known(binary, IMAGE) or (binary[0] if len(binary) == 1 else known(schema.names, IMAGE))
    if found is None:
        raise UsageError(
            f"{path}: no column of images; there are {', '.join(map(repr, schema.names))}, expected one called "
            f"{', '.join(IMAGE[:3])} or another of those names"
        )
    return str(found)
