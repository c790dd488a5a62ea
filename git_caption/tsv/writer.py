"""Writes TSV files that appear under their name only when complete, with their indexes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from git_caption.errors import DataError
from git_caption.tsv.index import IndexWriter, LineStarts, temporary_path

FLUSH_BYTES = 1 << 20


def encode(columns: Sequence[str], where: str) -> bytes:
    """One line of a TSV file, its newline included.

    Raises DataError naming `where` if the line could not be read back as it is: a column holds a tab or a newline, the
    line is empty or ends in a carriage return, or it is not Unicode text (a lone surrogate, as from a file name that is
    not UTF-8).
    """
    line = "\t".join(columns)
    if not line:
        raise DataError(f"{where}: the line to write is empty, expected at least one column with text")
    if "\n" in line or line.count("\t") != len(columns) - 1 or line.endswith("\r"):
        number, column = next((n, c) for n, c in enumerate(columns, 1) if "\t" in c or "\n" in c or n == len(columns))
        raise DataError(
            f"{where}: column {number} is {column[:80]!r}; a column may not hold a tab or a newline, nor a line end in "
            "a carriage return"
        )
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {line[max(0, error.start - 40) : error.start + 40]!r} is not Unicode text and cannot be written "
            "as UTF-8"
        ) from error


def sync_folder(folder: str | Path) -> None:
    """Makes renames in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: str | Path, data: bytes, scratch: str | Path | None = None) -> None:
    """Puts `data` under `path` at once: a reader sees the old file or the whole new one, also after a loss of power.

    Until then it lies beside `path`, or in the folder `scratch` of the same file system.
    """
    with whole_file(path, scratch) as file:
        file.write(data)


@contextmanager
def whole_file(path: str | Path, scratch: str | Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which has the name `path` once the block ends without an exception, and lasts from then on.

    Until then it lies beside `path`, or in the folder `scratch` of the same file system.
    """
    temporary = temporary_path(path, scratch)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(Path(path).parent)


class TsvWriter:
    """Writes rows to `path`; at the end of the `with` block the file and both indexes stand there.

    Left by an exception, the block leaves nothing behind and an older file as it was. Missing folders are made. What is
    not complete lies beside `path`, or in the folder `scratch` of the same file system: only a kill leaves it there.
    """

    def __init__(self, path: str | Path, scratch: str | Path | None = None) -> None:
        self.path = Path(path)
        self.scratch = scratch
        self.rows = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._starts = LineStarts()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_path(self.path, self.scratch)
        self._file: BinaryIO = open(self._temporary, "xb")
        try:
            self._index = IndexWriter(self.path, self.scratch)
        except OSError:
            self._discard()
            raise
        return self

    def write(self, columns: Sequence[str]) -> None:
        """Adds one row. Raises DataError as `encode` does."""
        self.write_encoded(encode(columns, f"{self.path}:{self.rows + 1}"))
        self.rows += 1

    def write_encoded(self, data: bytes) -> None:
        """Adds complete lines as `encode` gives them; `rows` does not count these."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._file.write(data)
        self._index.extend(self._starts.feed(data))
        self._pending.clear()
        self._pending_bytes = 0

    def _discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._file.flush()
                os.fsync(self._file.fileno())
                # The indexes first: once the file has its name, everything is there. Should we end in between, an
                # older file finds an index that is not true of it, which every reader checks.
                self._index.commit(os.fstat(self._file.fileno()).st_mtime_ns)
                os.replace(self._temporary, self.path)
                sync_folder(self.path.parent)
        finally:
            self._index.close()
            self._discard()
