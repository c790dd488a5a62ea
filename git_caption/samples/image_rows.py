"""Files that give images by row, to caption or to ask about: image TSVs, webdataset's tars, Parquet, JSONL of paths."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Protocol

from git_caption.errors import DataError, UsageError
from git_caption.samples.jsonl_images import JsonlImages
from git_caption.samples.parquet_images import ParquetImages
from git_caption.samples.webdataset import WebDataset, tars_of
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_image_row

COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class ImageRows(Protocol):
    """Images by row number, 0-based. Picklable, for worker processes read the rows."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say which rows there are."""

    def __len__(self) -> int:
        """Number of rows."""

    def key(self, row: int) -> str:
        """The row's key. Raises DataError if it cannot be read."""

    def image(self, row: int) -> bytes:
        """The image file. Raises DataError, MissingImage where it is not there."""

    def where(self, row: int) -> str:
        """File and place in it, as messages give them."""


class TsvImages:
    """An image TSV. Raises UsageError as `TsvFile`."""

    def __init__(self, path: Path) -> None:
        self.file = TsvFile(path)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The TSV."""
        return (self.file.path,)

    def __len__(self) -> int:
        return len(self.file)

    def key(self, row: int) -> str:
        """The first column. Raises DataError if the line is empty or not UTF-8."""
        return self.file.columns(row)[0]

    def image(self, row: int) -> bytes:
        """The second column, decoded. Raises DataError if it is not base64."""
        return parse_image_row(self.file.columns(row), self.where(row)).image

    def where(self, row: int) -> str:
        """File and line."""
        return self.file.where(row)


def open_images(path: str | Path) -> ImageRows:
    """What gives the images at `path`, by its ending: `.tar`, `.parquet`, `.jsonl`, else a TSV.

    A folder holds tars or Parquet files; several of either are named by a pattern, as `shards/{00000..00012}.tar` or
    `data/*.parquet`. Raises UsageError if nothing is there, DataError if what is there is damaged.
    """
    name = str(path)
    if Path(path).is_dir():
        found = [pattern for pattern in ("*.tar", "*.parquet") if any(Path(path).glob(pattern))]
        if len(found) != 1:
            raise UsageError(f"{path}: {'tars and' if found else 'neither tars nor'} Parquet files in it: name a file")
        name = f"{glob.escape(name)}/{found[0]}"
    if name.endswith(COMPRESSED):
        raise UsageError(f"{path}: a compressed tar; rows are read by their place in the tar: unpack it to .tar first")
    if name.endswith(".tar"):
        return WebDataset(tars_of(name))
    if name.endswith(".parquet"):
        return ParquetImages(tars_of(name, "Parquet files"))
    if name.endswith((".jsonl", ".ndjson")):
        return JsonlImages(Path(name))
    return TsvImages(Path(name))


def torn_key(images: ImageRows, row: int) -> str:
    """The key of a row that cannot be read, as far as it is there."""
    if not isinstance(images, TsvImages):
        return ""
    try:
        return images.file.raw(row).split(b"\t")[0].decode("utf-8", "replace")
    except DataError:
        return ""
