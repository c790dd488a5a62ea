"""Conceptual Captions (CC3M): a TSV of captions and addresses, and the images that could be downloaded.

    Train_GCC-training.tsv                    caption, tab, URL        train/00000000.jpg ...
    Validation_GCC-1.1.0-Validation.tsv       the same                 validation/ or val/

The image of line `n + 1` is called `n` (`%08d.jpg`). Many addresses are dead: lines without an image are left out and
counted.
"""

from __future__ import annotations

import os
import re
from array import array
from pathlib import Path

import numpy as np

from git_caption.errors import DataError, UsageError
from git_caption.samples.splits import choose
from git_caption.samples.training_data import Texts, checked_texts, read_image
from git_caption.tsv.file import TsvFile

TABLES = {"train": "Train_GCC-training.tsv", "validation": "Validation_GCC-1.1.0-Validation.tsv"}
FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val")}
NAME = re.compile(r"(\d{8})\.jpg")


class Cc3m:
    """A split of CC3M in a folder: fulfils `TrainingData`, one row an image that is there.

    Memory: 8 bytes an image and, mapped from the disk, 8 bytes a line. The folder of images is listed once.
    Raises UsageError if table, split or folder of images is not there, DataError if no line has an image.
    """

    def __init__(self, folder: Path, split: str | None = None) -> None:
        names = [name for name, table in TABLES.items() if (folder / table).is_file()]
        if not names:
            raise UsageError(f"{folder}: neither {' nor '.join(TABLES.values())} is there")
        split = choose(names, split, str(folder))
        self.kind = f"CC3M, split {split}"
        self.table = TsvFile(folder / TABLES[split])
        found = [folder / name for name in FOLDERS[split] if (folder / name).is_dir()]
        if not found:
            tried = " or ".join(FOLDERS[split])
            raise UsageError(
                f"{folder}: no folder {tried} beside {self.table.path.name}, expected its images there; python3 "
                f"download.py --data_root {folder} fetches them"
            )
        self.images = found[0]
        numbers = np.sort(_numbers(self.images))
        self._lines = numbers[numbers < len(self.table)]
        if not len(self._lines):
            raise DataError(
                f"{self.images}: no image of the {len(self.table)} lines of {self.table.path.name}, expected "
                "00000000.jpg for the first line and so on"
            )

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The table."""
        return (self.table.path,)

    @property
    def missing(self) -> int:
        """Lines whose image is not there."""
        return len(self.table) - len(self)

    def __len__(self) -> int:
        return len(self._lines)

    def key(self, row: int) -> str:
        """The number of the line, from 0, as the image is called."""
        return f"{int(self._lines[row]):08}"

    def texts(self, row: int) -> Texts:
        """The caption. Raises DataError if its line has not two columns."""
        line = int(self._lines[row])
        columns = self.table.columns(line)
        if len(columns) != 2:
            raise DataError(
                f"{self.where(row)}: found {len(columns)} columns, expected a caption, a tab and an address"
            )
        return checked_texts(self.key(row), columns[:1], self.where(row))

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        return read_image([self.images / f"{int(self._lines[row]):08}.jpg"], self.table.where(int(self._lines[row])))

    def where(self, row: int) -> str:
        """Line and image."""
        line = int(self._lines[row])
        return f"{self.table.where(line)} ({self.images.name}/{line:08}.jpg)"


def _numbers(folder: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The numbers of the images in a folder, in the order that it lists them."""
    with os.scandir(folder) as entries:
        return np.array(array("q", (int(found[1]) for entry in entries if (found := NAME.fullmatch(entry.name)))))
