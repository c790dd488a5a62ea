"""Data sets of Hugging Face's `datasets`: a folder that `save_to_disk` wrote, or a repository on the hub."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples.columns import IMAGE, find_columns
from git_caption.samples.splits import choose, refuse
from git_caption.samples.training_data import LARGEST_IMAGE, Texts, checked_texts, read_image

FILES = ("dataset_dict.json", "state.json", "dataset_info.json")


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    several, state, info = (folder / name for name in FILES)
    return several.is_file() or (state.is_file() and info.is_file())


class HubDataset:
    """A split of such a data set: fulfils `TrainingData`. Images stay encoded until they are asked for.

    Memory: the Arrow files are mapped from the disk; nothing grows with the rows.
    Raises UsageError if `datasets` is not installed, the data set, the split or a column is not there.
    """

    missing = 0

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
    ) -> None:
        self.name = str(path)
        library = _library(f"{path}: saved" if isinstance(path, Path) else f"{path}: no such file or folder; the hub's")
        found, split = _split(_opened(library, path), split, self.name)
        self.kind = "Hugging Face data set" if split is None else f"Hugging Face data set, split {split}"
        folder = Path(path)
        self.inputs: tuple[Path, ...] = tuple(sorted(folder.rglob("*.arrow"))) if folder.is_dir() else ()
        images = [name for name, feature in found.features.items() if isinstance(feature, library.Image)]
        if image_column is None and not set(IMAGE) & {name.lower() for name in images}:
            image_column = images[0] if images else None
        columns = find_columns(found.column_names, image_column, caption_column, self.name)
        self.image_column, self.caption_column = columns.image, columns.caption
        if isinstance(found.features[columns.image], library.Image):
            found = found.cast_column(columns.image, library.Image(decode=False))
        # Parted, so that texts are read without the images.
        self._images, self._captions = (found.select_columns([name]) for name in (columns.image, columns.caption))

    def __len__(self) -> int:
        return len(self._captions)

    def key(self, row: int) -> str:
        """The number of the row, from 0."""
        return str(row)

    def texts(self, row: int) -> Texts:
        """Key and captions. Raises DataError if none can be used."""
        value = self._captions[row][self.caption_column]
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list):
            raise DataError(
                f"{self.where(row)}: column {self.caption_column!r} holds {type(value).__name__}, expected a text or a "
                "list of texts"
            )
        return checked_texts(self.key(row), texts, self.where(row))

    def image(self, row: int) -> bytes:
        """The image file: its bytes, or the file that the row names. Raises MissingImage or DataError."""
        value = self._images[row][self.image_column]
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(data, bytes):
            if len(data) > LARGEST_IMAGE:
                raise DataError(f"{self.where(row)}: the image has {len(data)} bytes, expected at most {LARGEST_IMAGE}")
            return data
        if isinstance(name, str):
            return read_image([Path(name)], self.where(row))
        raise MissingImage(f"{self.where(row)}: no image in column {self.image_column!r}")

    def where(self, row: int) -> str:
        """Data set and row."""
        return f"{self.name}, row {row + 1}"


def _library(whose: str) -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise UsageError(f"{whose} data sets need a package that is not installed: pip install datasets") from error


def _opened(library: Any, path: str | Path) -> Any:
    if isinstance(path, Path):
        try:
            return library.load_from_disk(str(path))
        except Exception as error:  # pyarrow and datasets raise many kinds on damaged files
            raise DataError(f"{path}: not a data set as save_to_disk writes it: {_line(error)}") from error
    try:
        return library.load_dataset(path)
    except Exception as error:  # of the network, of the hub, of its files
        raise UsageError(
            f"{path}: no such folder, and no data set on the hub that can be loaded: {_line(error)}"
        ) from error


def _split(found: Any, split: str | None, where: str) -> tuple[Any, str | None]:
    """The rows of a split and its name; None where there are no splits."""
    if not isinstance(found, dict):
        refuse(split, "a data set saved alone", where)
        return found, None
    split = choose(found.keys(), split, where)
    return found[split], split


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
