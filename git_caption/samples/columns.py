"""Which columns (keys, features) of a table hold image, caption and split: found by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from git_caption.errors import UsageError

IMAGE = ("image", "image_path", "file_name", "filename", "file", "filepath", "file_path", "path", "image_name", "img")
CAPTION = ("caption", "captions", "text", "texts", "sentence", "sentences", "description", "title", "comment")
KEY = ("key", "__key__", "id", "image_id", "public_id", "item_id", "uid")
SPLIT = "split"


@dataclass(frozen=True)
class Columns:
    """Names of columns; `split` is None where there is none."""

    image: str
    caption: str
    split: str | None


def find_columns(names: Sequence[str], image: str | None, caption: str | None, where: str) -> Columns:
    """The columns of these names, or the first known ones, whatever their case.

    Raises UsageError that lists the columns there are.
    """
    found = [
        find_column(names, asked, usual, key, where)
        for asked, usual, key in ((image, IMAGE, "image_column"), (caption, CAPTION, "caption_column"))
    ]
    split = known(names, (SPLIT,))
    return Columns(found[0], found[1], split)


def find_column(names: Sequence[str], asked: str | None, usual: Sequence[str], key: str, where: str) -> str:
    """The column that is asked for under `key`, else the first usual one. Raises UsageError as `find_columns`."""
    wanted = usual if asked is None else (asked.strip().lower(),)
    found = known(names, wanted)
    if found is None:
        there = ", ".join(map(repr, names)) if names else "none"
        raise UsageError(
            f"{where}: none of the columns is called {' or '.join(wanted)}; there are {there}: name one as {key!r}"
        )
    return found


def known(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names that there is, whatever its case."""
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in wanted if name in by_lower), None)
