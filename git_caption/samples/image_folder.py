"""A folder of image files, also in folders in it; the caption of `a.jpg` may be in `a.txt` beside it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from git_caption.errors import DataError
from git_caption.params.paths import IMAGE_SUFFIXES
from git_caption.samples.packed import PackedTexts
from git_caption.samples.training_data import Texts, checked_texts, read_image

LARGEST_TEXT = 1 << 20  # bytes


class ImageFolder:
    """Its images in the order of their paths: fulfils `TrainingData`. Nothing whose name begins with a dot is taken.

    A key is the path in the folder without its ending; with it where that is the name of another, or two files differ
    in the ending alone. Linked folders are gone into, each folder once.
    Memory: the UTF-8 of the paths and 8 bytes each. Raises DataError if no file is named as an image, or a folder
    cannot be listed.
    """

    kind = "folder of images"
    missing = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = sorted(_images(str(folder)))
        if not names:
            raise DataError(f"{folder}: no image in it, expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        stems = Counter(os.path.splitext(name)[0] for name in names)
        self._taken = {stem for stem, count in stems.items() if count > 1} | (stems.keys() & set(names))
        self._names = PackedTexts()
        for name in names:
            self._names.append(name)
        self.has_captions = any((folder / f"{stem}.txt").is_file() for stem in stems)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """None: no file says which images there are."""
        return ()

    def __len__(self) -> int:
        return len(self._names)

    def key(self, row: int) -> str:
        """The path in the folder, with `/` between its parts."""
        stem = os.path.splitext(self._names[row])[0]
        return (self._names[row] if stem in self._taken else stem).replace(os.sep, "/")

    def texts(self, row: int) -> Texts:
        """The text beside the image. Raises DataError if there is none, or it is empty or not UTF-8."""
        path = (self.folder / self._names[row]).with_suffix(".txt")
        try:
            with open(path, "rb") as file:
                data = file.read(LARGEST_TEXT)
        except OSError as error:
            raise DataError(f"{self.where(row)}: no caption: {path.name}: {error.strerror}") from error
        text = data.decode("utf-8-sig", "surrogateescape").strip()
        return checked_texts(self.key(row), [text] if text else [], self.where(row))

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        return read_image([self.folder / self._names[row]], str(self.folder))

    def where(self, row: int) -> str:
        """The file."""
        return str(self.folder / self._names[row])


def _images(folder: str) -> list[str]:
    """Paths in the folder of files that are named as images."""
    found = []
    been: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_refused, followlinks=True):
        if (real := os.path.realpath(place)) in been:
            folders.clear()
            continue
        been.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(place, folder)
        found += [
            name if inside == os.curdir else os.path.join(inside, name)
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return found


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error
