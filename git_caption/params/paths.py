"""Paths among the parameters: what must be there before a job starts, and where its output can go."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

Kind = Literal[
    "input_file",
    "input_files",
    "input_dir",
    "input_path",
    "source",
    "images",
    "model",
    "data",
    "data_sets",
    "output_file",
    "output_dir",
]
"""input_path: a file, a folder of images, a glob pattern with a match, or a list of files. source: a file or a folder.
images: a file, or a folder or pattern of tars or Parquet files, which are looked for when it is opened. model: a
folder, a file, or the id of a repository. data: the same, or a pattern of tars, whose files are looked for when it is
opened. input_files, data_sets: of the one kind or the other, several with commas between."""
SEVERAL: Mapping[Kind, Kind] = {"input_files": "input_file", "data_sets": "data"}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")
ROW_FILES = ("*.tar", "*.parquet")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def several(text: str) -> list[str]:
    """The names in a text that are divided by commas; a file whose own name has commas is one."""
    if os.path.exists(text):
        return [text]
    return [os.path.expanduser(name.strip()) for name in text.split(",")]


def expand(value: Any) -> Any:
    """`~` replaced by the home folder, in a path or each path of a tuple."""
    if isinstance(value, tuple):
        return tuple(os.path.expanduser(item) for item in value)
    return os.path.expanduser(value)


def is_hub_id(name: str) -> bool:
    """Whether `name` may be a repository on the hub: shaped as an id, no weights file, not in a folder that is here."""
    if not HUB_ID.fullmatch(name) or name.endswith(WEIGHT_SUFFIXES):
        return False
    return "/" not in name or not os.path.isdir(os.path.dirname(name))


def images(path: str) -> list[str]:
    """The files in a folder that are named as images, or all that match a glob pattern; in order of their names."""
    if os.path.isdir(path):
        return [name for name in images(_inside(path, ("*",))[0]) if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))


def _inside(folder: str, patterns: Sequence[str]) -> list[str]:
    return [os.path.join(glob.escape(folder), pattern) for pattern in patterns]


def fault(value: Any, kind: Kind, promised: Collection[str] = ()) -> str | None:
    """Why the path (or one of a tuple of paths) cannot serve as `kind`; None where it can.

    Args:
        value: path or tuple of paths.
        kind: what it must be.
        promised: files and folders that will have been written by then; what is inside a promised folder counts too.
    """
    if isinstance(value, tuple):
        if not value:
            return "expected at least one path, found none"
        each: Kind = "input_file" if kind == "input_path" else kind
        return next((found for item in value if (found := fault(item, each, promised))), None)
    if kind in SEVERAL:
        return next((found for path in several(value) if (found := fault(path, SEVERAL[kind], promised))), None)
    if not value:
        return "expected a path, found an empty text"
    if "\0" in value:
        return f"expected a path, found a null character in {value!r}"
    if kind in ("output_file", "output_dir"):
        return _output_fault(value, kind)
    if _is_promised(value, promised) or (kind == "images" and _holds_promised(value, promised)):
        return None
    return _input_fault(value, kind)


def _input_fault(path: str, kind: Kind) -> str | None:
    if kind == "model" and is_hub_id(path):
        return None
    if kind == "data" and not os.path.exists(path) and ((path.count("/") == 1 and is_hub_id(path)) or "{" in path):
        return None
    if kind == "images" and not os.path.lexists(path) and ("{" in path or glob.has_magic(path)):
        return None
    if kind == "input_path" and glob.has_magic(path) and not os.path.lexists(path):
        return None if images(path) else f"no file matches {path!r}"
    if not os.path.exists(path):
        noun = {"input_file": "file", "images": "file", "input_dir": "folder", "model": "checkpoint"}.get(
            kind, "file or folder"
        )
        return f"no such {noun}: {path!r}{_neighbour(path)}"
    if kind == "input_file" and os.path.isdir(path):
        return f"expected a file, found a folder: {path!r}"
    if kind == "input_dir" and not os.path.isdir(path):
        return f"expected a folder, found a file: {path!r}"
    if not os.access(path, os.R_OK):
        return f"no permission to read {path!r}"
    if kind == "images" and os.path.isdir(path) and not any(map(glob.glob, _inside(path, ROW_FILES))):
        return f"expected a file, or a folder with some of {', '.join(ROW_FILES)}, found {path!r}"
    if kind == "input_path" and os.path.isdir(path) and not images(path):
        return f"{path!r} holds no image, expected files ending in {', '.join(IMAGE_SUFFIXES)}"
    return None


def _output_fault(path: str, kind: Kind) -> str | None:
    if kind == "output_file" and (os.path.isdir(path) or path.endswith(("/", os.sep))):
        return f"expected a file to write, found a folder: {path!r}"
    if kind == "output_dir" and os.path.exists(path) and not os.path.isdir(path):
        return f"expected a folder to write into, found a file: {path!r}"
    folder = os.path.abspath(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if folder == os.path.abspath(path):
        return None if os.access(folder, os.W_OK) else f"no permission to write {path!r}"
    if not os.path.isdir(folder):
        return f"cannot write {path!r}: {folder!r} is a file, not a folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission to write {path!r} into {folder!r}"


def _is_promised(path: str, promised: Collection[str]) -> bool:
    full = os.path.abspath(path)
    return any(full == given or full.startswith(given + os.sep) for given in map(os.path.abspath, promised))


def _holds_promised(folder: str, promised: Collection[str]) -> bool:
    """Whether tars or Parquet files will have been written into a folder."""
    full = os.path.abspath(folder)
    return any(
        os.path.dirname(given) == full and any(fnmatch.fnmatch(given, pattern) for pattern in ROW_FILES)
        for given in map(os.path.abspath, promised)
    )


def _neighbour(path: str) -> str:
    """A hint at the most alike name in the same folder."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {os.path.join(folder, close[0])!r}?" if close else ""
