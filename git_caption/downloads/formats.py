"""What a complete run leaves to train on: image and caption TSV, tars of webdataset, a table beside image files.

Each appears under its name only when complete, and is read back where a later run adds to it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from git_caption.downloads.list import ListRow
from git_caption.downloads.work import Output
from git_caption.errors import DataError
from git_caption.tsv.file import TsvFile
from git_caption.tsv.index import temporary_path
from git_caption.tsv.rows import CaptionRow, ImageRow, dumps, parse_image_row
from git_caption.tsv.writer import TsvWriter, sync_folder

EXTENSIONS = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"), (b"II", "tif"), (b"MM", "tif"))
CAPTION = ".txt"


class Earlier:
    """Images by row that an earlier run wrote, asked for in ascending order."""

    def __init__(self, images: Iterator[tuple[int, bytes]]) -> None:
        self._images = images
        self._next = next(images, None)

    def get(self, row: int) -> bytes | None:
        """The image of a row; None where there is none."""
        while self._next is not None and self._next[0] < row:
            self._next = next(self._images, None)
        return self._next[1] if self._next is not None and self._next[0] == row else None


def read_tsv(output: Output) -> Iterator[tuple[int, bytes]]:
    """Row and image of an image TSV of ours, where there is one."""
    if not output.tsv("img").exists():
        return
    with TsvFile(output.tsv("img")) as file:
        for number, columns in enumerate(file):
            row = parse_image_row(columns, file.where(number))
            yield int(row.key), row.image


def write_tsv(output: Output, images: Iterable[tuple[ListRow, bytes]], *, with_captions: bool) -> None:
    """`NAME.img.tsv` and `NAME.caption.tsv`, with their indexes."""
    with ExitStack() as stack:
        pictures = stack.enter_context(TsvWriter(output.tsv("img"), output.work))
        captions = stack.enter_context(TsvWriter(output.tsv("caption"), output.work)) if with_captions else None
        for row, image in images:
            pictures.write(ImageRow(row.key, image).columns())
            if captions is not None:
                captions.write(CaptionRow(row.key, (row.caption,)).columns())


def read_tar(path: Path) -> Iterator[tuple[int, bytes]]:
    """Row and image of a tar of ours, where there is one. Raises DataError if it is damaged."""
    if not path.exists():
        return
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, extension = os.path.splitext(member.name)
                file = tar.extractfile(member) if extension != CAPTION else None
                if file is not None:
                    yield int(stem), file.read()
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{path}: not a tar of this program: {error}") from error


def write_tar(path: Path, images: Iterable[tuple[ListRow, bytes]], scratch: Path) -> None:
    """`KEY.jpg` (or as the image is) beside `KEY.txt`; the same images give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path, scratch)
    try:
        with open(temporary, "xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for row, image in images:
                    _add(tar, f"{row.key}.{_extension(image)}", image)
                    if row.caption:
                        _add(tar, row.key + CAPTION, row.caption.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_table(output: Output, rows: Iterable[ListRow]) -> None:
    """`NAME.captions.jsonl`: the image files with their captions."""
    temporary = temporary_path(output.captions, output.work)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            for row in rows:
                file.write(dumps({"image": f"{output.name}/{row.key}.jpg", "caption": row.caption}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output.captions)
    finally:
        temporary.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _extension(image: bytes) -> str:
    return next((name for magic, name in EXTENSIONS if image.startswith(magic)), "jpg")
