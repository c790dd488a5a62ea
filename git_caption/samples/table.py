"""Tables that name images beside captions: CSV, JSONL, a JSON list. Columns are found by name.

    image,caption                       {"image": "a.jpg", "caption": ["a dog", "a brown dog"]}
    a.jpg,a dog                         {"image": "b.jpg", "caption": "a cat"}
    a.jpg,"a dog, brown"

Images are relative to the table's folder (or to `images/` in it) or absolute. An image may come in several rows, each
with a caption; where a column is called `split`, rows of one split are read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.samples.columns import Columns, find_columns
from git_caption.samples.image_list import ImageList
from git_caption.samples.splits import choose, refuse

DELIMITERS = ",\t;|"
LONGEST_LINE = 1 << 24  # bytes of a line of JSONL
LARGEST_JSON = 1 << 31  # bytes: in memory a document takes some ten times as many

Entry = dict[str, Any] | str  # what an entry holds by column, or what is wrong with it
Entries = Callable[[], Iterator[tuple[int, Entry]]]  # with their numbers, from the first on at every call


def read_csv(
    path: Path, split: str | None = None, image_column: str | None = None, caption_column: str | None = None
) -> ImageList:
    """A CSV with a header; commas, tabs, semicolons or bars part its columns, whichever finds more of them.

    Raises UsageError where the columns or the split are not there, DataError where there are no rows.
    """
    names, rows = csv_entries(path)
    columns = find_columns(names, image_column, caption_column, str(path))
    return _listed("CSV", path, "line", rows, columns, split)


def csv_entries(path: Path) -> tuple[list[str], Entries]:
    """The names in the header of a CSV, and its rows; blank lines are passed over."""
    # Bytes that are no UTF-8 fail in the row they stand in.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = file.readline(LONGEST_LINE)
    delimiter = max(DELIMITERS, key=header.count)

    def rows() -> Iterator[tuple[int, Entry]]:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            names = next(reader, [])
            while True:
                begin = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield begin, f"not CSV: {error}"
                    continue
                if len(cells) == len(names):
                    yield begin, dict(zip(names, cells, strict=True))
                elif cells:
                    yield (
                        begin,
                        f"found {len(cells)} columns, expected {len(names)} as in the header: a text with the "
                        f"delimiter {delimiter!r} stands in quotes",
                    )

    return next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []), rows


def read_jsonl(
    path: Path, split: str | None = None, image_column: str | None = None, caption_column: str | None = None
) -> ImageList:
    """One JSON object a line; a caption may be a list. Raises as `read_csv` does."""

    def rows() -> Iterator[tuple[int, Entry]]:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                    raise DataError(f"{path}:{number}: a line of more than {LONGEST_LINE} bytes, expected JSONL")
                if line.strip():
                    yield number, _object(line)

    return _by_first("JSONL", path, "line", rows, split, image_column, caption_column)


def read_json_list(
    path: Path,
    document: list[Any],
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> ImageList:
    """A JSON list of objects, read already. Raises as `read_csv` does."""

    def rows() -> Iterator[tuple[int, Entry]]:
        for number, entry in enumerate(document, 1):
            yield number, entry if isinstance(entry, dict) else f"a {type(entry).__name__}, expected an object"

    return _by_first("JSON list", path, "entry", rows, split, image_column, caption_column)


def load_json(path: Path) -> Any:
    """The JSON document in a file. Raises DataError if it is none, or too large to be read as a whole."""
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise DataError(f"{path}: {size} bytes of JSON, read as a whole up to {LARGEST_JSON}: write it as JSONL")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def _object(line: bytes) -> Entry:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return entry if isinstance(entry, dict) else f"a JSON {type(entry).__name__}, expected an object"


def _by_first(
    kind: str,
    path: Path,
    unit: str,
    entries: Entries,
    split: str | None,
    image_column: str | None,
    caption_column: str | None,
) -> ImageList:
    """The columns are those of the first entry."""
    first = next((entry for _, entry in entries() if isinstance(entry, dict)), None)
    if first is None:
        raise DataError(f"{path}: no JSON object in it, expected one for each image")
    return _listed(kind, path, unit, entries, find_columns(list(first), image_column, caption_column, str(path)), split)


def _listed(kind: str, path: Path, unit: str, entries: Entries, columns: Columns, split: str | None) -> ImageList:
    column = columns.split
    if column is None:
        refuse(split, f"{kind} without a column 'split'", str(path))
    else:
        names = {str(entry.get(column)) for _, entry in entries() if isinstance(entry, dict)}
        split = choose(names, split, str(path)) if names else None
    listed = ImageList(
        kind if split is None else f"{kind}, split {split}", path, (path.parent, path.parent / "images"), unit
    )
    for number, entry in entries():
        if isinstance(entry, str):
            listed.add_fault(number, entry)
        elif column is None or str(entry.get(column)) == split:
            listed.add(number, entry.get(columns.image), entry.get(columns.caption))
    return listed.close()
