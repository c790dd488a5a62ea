"""Lists of addresses, read row by row: TSV, CSV, JSONL, Parquet, or an address a line.

A row is known by its number from 0 (without a header, and in JSONL and plain lists without blank lines); its key is
that number in eight digits, as the tools before this one called the images of CC3M.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, UsageError, reason

URL = ("url", "image_url", "img_url", "link", "image_link", "photo_url", "uri", "src")
CAPTION = ("caption", "captions", "text", "texts", "sentence", "description", "title", "alt", "top_caption")
SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet", ".txt")
PARQUET_ROWS = 1024  # read at once
LONGEST_LINE = 1 << 24  # characters


@dataclass(frozen=True, slots=True)
class ListRow:
    """An address of a list; empty where the row has none. `number` is the row's, from 0."""

    number: int
    url: str
    caption: str = ""

    @property
    def key(self) -> str:
        """What its image is called."""
        return key_of(self.number)


def key_of(number: int) -> str:
    """What the image of a row is called."""
    return f"{number:08d}"


@dataclass(frozen=True)
class UrlList:
    """A list of addresses; every iteration reads the file anew, in constant memory.

    Attributes:
        path: the file.
        url_column: name of the column, or its number from 0 where the file has no header.
        caption_column: likewise; None where there is none.
    """

    path: Path
    url_column: str | int
    caption_column: str | int | None

    def __iter__(self) -> Iterator[ListRow]:
        """The rows in order. Raises DataError where the file is not what its ending says."""
        match self.path.suffix.lower():
            case ".parquet":
                return _parquet_rows(self)
            case ".jsonl":
                return _jsonl_rows(self)
            case ".csv":
                return _csv_rows(self)
            case ".tsv":
                return _tsv_rows(self)
        return _plain_rows(self)


def open_list(path: Path, url_col: str | None = None, caption_col: str | None = None) -> UrlList:
    """A list with its columns found: those named, else the first known names, else the first with an address.

    Raises:
        UsageError: no such column, or an ending that is not known.
        DataError: it is empty, or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: expected a list ending in {', '.join(SUFFIXES)}")
    if suffix == ".txt":
        if url_col is not None or caption_col is not None:
            raise UsageError(f"{path}: an address a line has no columns: leave 'url_col' and 'caption_col' out")
        return UrlList(path, 0, None)
    if suffix == ".tsv":
        return _open_tsv(path, url_col, caption_col)
    names = _names(path, suffix)
    url = _find(names, url_col, URL, "url_col", path)
    return UrlList(path, url, _find_caption(names, caption_col, path))


def _names(path: Path, suffix: str) -> list[str]:
    if suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if suffix == ".csv":
        with _text(path) as file:
            return next(csv.reader(file, delimiter=_delimiter(path)), [])
    for _, entry in _objects(path):
        if isinstance(entry, dict):
            return list(entry)
    raise DataError(f"{path}: no JSON object in it, expected one a line")


def _open_tsv(path: Path, url_col: str | None, caption_col: str | None) -> UrlList:
    """With a header where a column is named, or has a known name; else columns by number."""
    with _text(path) as file:
        first = file.readline(LONGEST_LINE).rstrip("\r\n").split("\t")
    known = any(name.strip().lower() in URL for name in first)
    if known or any(name is not None and not name.isdecimal() for name in (url_col, caption_col)):
        return UrlList(path, _find(first, url_col, URL, "url_col", path), _find_caption(first, caption_col, path))
    for name, number in (("url_col", url_col), ("caption_col", caption_col)):
        if number is not None and int(number) >= len(first):
            raise UsageError(f"{path}: {name!r} is {number}, and its first row has columns 0 to {len(first) - 1}")
    url = next((n for n, cell in enumerate(first) if "://" in cell), None) if url_col is None else int(url_col)
    if url is None:
        raise UsageError(
            f"{path}: no address in its first row, nor a header with one of {', '.join(URL)}: set 'url_col'"
        )
    if caption_col is not None:
        return UrlList(path, url, int(caption_col))
    return UrlList(path, url, 1 - url if len(first) == 2 and url in (0, 1) else None)


def _find(names: Sequence[str], asked: str | None, known: Sequence[str], key: str, path: Path) -> str:
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    wanted = known if asked is None else (asked.strip().lower(),)
    found = next((by_lower[name] for name in wanted if name in by_lower), None)
    if found is None:
        there = ", ".join(map(repr, names[:20])) or "none"
        raise UsageError(f"{path}: no column is called {' or '.join(wanted)}; there are {there}: name one as {key!r}")
    return found


def _find_caption(names: Sequence[str], asked: str | None, path: Path) -> str | None:
    if asked is None and not any(name.strip().lower() in CAPTION for name in names):
        return None
    return _find(names, asked, CAPTION, "caption_col", path)


def _text(path: Path) -> Any:
    # What is no UTF-8 spoils its own row only: the address is then not found, or refused.
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _plain_rows(source: UrlList) -> Iterator[ListRow]:
    with _text(source.path) as file:
        lines = (line.strip() for line in iter(lambda: file.readline(LONGEST_LINE), ""))
        yield from (ListRow(number, line) for number, line in enumerate(filter(None, lines)))


def _tsv_rows(source: UrlList) -> Iterator[ListRow]:
    """Lines end at a newline alone and no quotation mark is special, so that rows are counted as lines."""
    with open(source.path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        url, caption = source.url_column, source.caption_column
        if isinstance(url, str):
            names = file.readline().rstrip("\r\n").split("\t")
            url, caption = names.index(url), None if caption is None else names.index(str(caption))
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), "")):
            cells = line.rstrip("\r\n").split("\t")
            whole = max(url, int(caption or 0)) < len(cells)
            yield ListRow(
                number,
                cells[url].strip() if whole else "",
                cells[int(caption)] if whole and caption is not None else "",
            )


def _csv_rows(source: UrlList) -> Iterator[ListRow]:
    with _text(source.path) as file:
        reader = csv.reader(file, delimiter=_delimiter(source.path))
        names = next(reader, [])
        url = names.index(str(source.url_column))
        caption = None if source.caption_column is None else names.index(str(source.caption_column))
        number = -1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                cells = [""]
            if not cells:
                continue
            number += 1
            whole = len(cells) == len(names)
            yield ListRow(
                number, cells[url].strip() if whole else "", cells[caption] if whole and caption is not None else ""
            )


def _jsonl_rows(source: UrlList) -> Iterator[ListRow]:
    for number, entry in _objects(source.path):
        yield _named(number, entry if isinstance(entry, dict) else {}, source)


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """What each line that is not blank holds, with its number; None where it is no JSON."""
    number = 0
    with _text(path) as file:
        for line in iter(lambda: file.readline(LONGEST_LINE), ""):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            yield number, entry
            number += 1


def _parquet_rows(source: UrlList) -> Iterator[ListRow]:
    columns = [str(name) for name in (source.url_column, source.caption_column) if name is not None]
    number = 0
    for batch in _parquet(source.path).iter_batches(PARQUET_ROWS, columns=columns):
        for entry in batch.to_pylist():
            yield _named(number, entry, source)
            number += 1


def _named(number: int, entry: dict[str, Any], source: UrlList) -> ListRow:
    url = entry.get(str(source.url_column))
    caption = entry.get(str(source.caption_column))
    if isinstance(caption, list):
        caption = next((text for text in caption if isinstance(text, str)), "")
    return ListRow(number, url.strip() if isinstance(url, str) else "", caption if isinstance(caption, str) else "")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"{path}: a Parquet file needs pyarrow: pip install 'git-caption[parquet]'") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {reason(error)}") from error


def _delimiter(path: Path) -> str:
    """Comma, semicolon or tab, whichever the header has more of."""
    with _text(path) as file:
        return max(",;\t", key=file.readline(LONGEST_LINE).count)
