"""Where images lie while a run goes on: as files under their final names, or in blobs that the end puts in order."""

from __future__ import annotations

import os
import shutil
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from git_caption.downloads.list import key_of

WRITERS = 8  # files written at the same time, for file systems on which each takes its time
HEADER = struct.Struct("<QI")  # row, size of the image that follows


class Store(Protocol):
    """Takes the images of rows; None says that there is none, whatever an interrupted run may have left."""

    def put(self, images: Sequence[tuple[int, bytes | None]]) -> None:
        """Returns once a kill cannot undo it."""


class FileStore:
    """`FOLDER/%08d.jpg`; each file appears under its name only when complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder / ".partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        self._threads = ThreadPoolExecutor(WRITERS, "files")

    def put(self, images: Sequence[tuple[int, bytes | None]]) -> None:
        """Write files, and remove those of rows without an image."""
        list(self._threads.map(self._put, images))

    def _put(self, item: tuple[int, bytes | None]) -> None:
        row, image = item
        name = f"{key_of(row)}.jpg"
        if image is None:
            (self._folder / name).unlink(missing_ok=True)
            return
        partial = self._partial / name
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            rest = memoryview(image)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.replace(partial, self._folder / name)


def remove_partial(folder: Path) -> None:
    """Remove what kills have left of incomplete files."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / ".partial")


class BlobStore:
    """`FOLDER/00012.blob`: the images of so many rows in the order in which they came, each after its row and size."""

    def __init__(self, folder: Path, rows_per_blob: int) -> None:
        self._folder = folder
        self._rows_per_blob = rows_per_blob
        for path in folder.glob("*.blob"):
            os.truncate(path, _complete(path))

    def put(self, images: Sequence[tuple[int, bytes | None]]) -> None:
        """Append images; what is to be forgotten is told by its status row."""
        by_blob: defaultdict[int, list[bytes]] = defaultdict(list)
        for row, image in images:
            if image is not None:
                by_blob[row // self._rows_per_blob] += [HEADER.pack(row, len(image)), image]
        for number, pieces in by_blob.items():
            with open(blob_path(self._folder, number), "ab") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())


def blob_path(folder: Path, number: int) -> Path:
    """Where the blob of that number lies."""
    return folder / f"{number:05d}.blob"


class Blobs:
    """The images of the rows of one number, over several stores; the last one of a row counts."""

    def __init__(self, folders: Sequence[Path], number: int) -> None:
        self._paths = [path for folder in folders if (path := blob_path(folder, number)).exists()]
        self._places = {row: (path, offset, size) for path in self._paths for row, offset, size in _records(path)}

    def get(self, row: int) -> bytes | None:
        """The image of a row; None where there is none."""
        if row not in self._places:
            return None
        path, offset, size = self._places[row]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def _records(path: Path) -> Iterator[tuple[int, int, int]]:
    """Row, offset and size of each complete image."""
    end = path.stat().st_size
    with open(path, "rb") as file:
        offset = 0
        while offset + HEADER.size <= end:
            file.seek(offset)
            row, size = HEADER.unpack(file.read(HEADER.size))
            offset += HEADER.size
            if offset + size > end:
                return
            yield row, offset, size
            offset += size


def _complete(path: Path) -> int:
    """Bytes up to the end of the last complete image."""
    return max((offset + size for _, offset, size in _records(path)), default=0)
