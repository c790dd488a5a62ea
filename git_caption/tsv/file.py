"""Rows of a TSV file by number."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from git_caption.errors import DataError, UsageError
from git_caption.tsv import index

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TsvFile:
    """A UTF-8 file of rows: a newline ends a line (CRLF is taken too), one tab parts columns, there is no header.

    Rows are read by offset through the index beside the file; the index is made where it is missing or not true of the
    file. Row numbers are 0-based here and 1-based in messages. Picklable: a copy in another process opens the file
    itself. Safe to share between threads and across a fork.

    Raises UsageError if the file is absent or not a regular file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open()
        offsets = index.load(self.path, self._descriptor)
        if offsets is None:
            offsets = index.build(self.path)
        self._stored = offsets is not None
        if offsets is None:  # a folder that cannot be written: the index lives in memory
            offsets = np.concatenate([np.empty(0, dtype=index.OFFSET_TYPE), *index.scan(self.path)])
        self._offsets = offsets

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot open this TSV file: {error.strerror}") from error
        self.close = weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise UsageError(f"{self.path}: expected a TSV file, found something else (a folder or a device)")
        self._size, self._mtime_ns = status.st_size, status.st_mtime_ns

    def __len__(self) -> int:
        """Number of rows; a last line without a newline counts."""
        return len(self._offsets)

    def where(self, row: int) -> str:
        """`path:row` as messages give it, 1-based."""
        return f"{self.path}:{row + 1}"

    def offset(self, row: int) -> int:
        """Offset in bytes of the row's first byte."""
        return int(self._offsets[row])

    def raw(self, row: int) -> bytes:
        """The row's bytes without its line ending.

        Raises IndexError past the last row, DataError if the file no longer fits its index.
        """
        return bytes(self._line(row))

    def _line(self, row: int) -> memoryview:
        if not 0 <= row < len(self._offsets):
            raise IndexError(f"row {row} of {len(self._offsets)}")
        start = self.offset(row)
        last = row + 1 == len(self._offsets)
        end = self._size if last else self.offset(row + 1)
        line = self._read(start, end - start) if end > start else b""
        stop = line.find(b"\n")
        if stop < 0 and last:  # the newline that ends the file may be missing
            stop = len(line)
        if not line or len(line) != end - start or stop not in (len(line) - 1, len(line)):
            binary = index.index_paths(self.path)[1]
            raise DataError(
                f"{self.where(row)}: bytes {start} to {end} are not one line; the file changed while it was read, or "
                f"its index is wrong: start again once it is complete, without {binary.name}"
            )
        if stop and line[stop - 1] == ord("\r"):
            stop -= 1
        begin = len(BYTE_ORDER_MARK) if row == 0 and line.startswith(BYTE_ORDER_MARK) else 0
        return memoryview(line)[begin:stop]

    def _read(self, start: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, start)
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), start + len(data))):
            data += more  # one read gives at most 2 GiB
        return data

    def columns(self, row: int) -> list[str]:
        """The row's columns. Raises DataError if the line is empty or not UTF-8."""
        line = self._line(row)
        if not line:
            raise DataError(f"{self.where(row)}: empty line, expected columns parted by tabs")
        try:
            return str(line, "utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.where(row)}: byte {line[error.start]:#04x} at {error.start} is not UTF-8, expected UTF-8 text"
            ) from error

    def __getitem__(self, row: int) -> list[str]:
        """Same as `columns`."""
        return self.columns(row)

    def __iter__(self) -> Iterator[list[str]]:
        """The columns of every row in order. Raises DataError as `columns` does."""
        return (self.columns(row) for row in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "identity": (self._size, self._mtime_ns),
            "offsets": None if self._stored else self._offsets,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["offsets"] is None:
            self.__init__(state["path"])  # type: ignore[misc]
        else:
            self.path, self._offsets, self._stored = state["path"], state["offsets"], False
            self._open()
        if (self._size, self._mtime_ns) != state["identity"]:
            raise DataError(f"{self.path}: the file changed while it was in use; start again once it is complete")
