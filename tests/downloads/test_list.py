from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from git_caption.downloads.list import ListRow, open_list
from git_caption.errors import DataError, UsageError

ROWS = [("http://a/1", "a dog"), ("http://a/2", 'says "hi", loudly'), ("http://ä/3", "émoji 🐕")]
EXPECTED = [ListRow(number, *row) for number, row in enumerate(ROWS)]


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"url": [url for url, _ in ROWS], "caption": [text for _, text in ROWS]}), path)


WRITTEN: dict[str, Callable[[Path], object]] = {
    "a.tsv": lambda path: path.write_text("".join(f"{text}\t{url}\n" for url, text in ROWS)),
    "header.tsv": lambda path: path.write_text(
        "id\tURL\tTEXT\n" + "".join(f"7\t{url}\t{text}\n" for url, text in ROWS)
    ),
    "a.csv": lambda path: path.write_text(
        "caption,url\n" + "".join('"' + text.replace('"', '""') + f'",{url}\n' for url, text in ROWS)
    ),
    "bom;.csv": lambda path: path.write_text(
        "url;caption\n" + "".join(f'{url};"' + text.replace('"', '""') + '"\n' for url, text in ROWS), "utf-8-sig"
    ),
    "a.jsonl": lambda path: path.write_text(
        "\n\n".join(json.dumps({"url": url, "caption": [text, "another"]}) for url, text in ROWS) + "\n"
    ),
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_gives_the_same_rows_again_and_again(tmp_path: Path, name: str) -> None:
    WRITTEN[name](tmp_path / name)
    found = open_list(tmp_path / name)
    assert list(found) == EXPECTED
    assert list(found) == EXPECTED


def test_an_address_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("http://a/1\n\n  http://a/2  \r\nno address\n")
    rows = [(row.key, row.url) for row in open_list(tmp_path / "a.txt")]
    assert rows == [("00000000", "http://a/1"), ("00000001", "http://a/2"), ("00000002", "no address")]


def test_columns_are_named_as_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,link,said\nhttp://no,http://yes,a\n")
    assert list(open_list(tmp_path / "a.csv", "link", "said")) == [ListRow(0, "http://yes", "a")]
    (tmp_path / "a.tsv").write_text("x\ty\thttp://yes\nx\ty\thttp://too\n")
    assert [row.url for row in open_list(tmp_path / "a.tsv", "2", "0")] == ["http://yes", "http://too"]
    assert [row.caption for row in open_list(tmp_path / "a.tsv")] == ["", ""]  # which of two is not guessed


def test_broken_rows_keep_their_number_and_have_no_address(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\thttp://a/1\nno columns\nc\thttp://a/3\n")
    assert [row.url for row in open_list(tmp_path / "a.tsv")] == ["http://a/1", "", "http://a/3"]
    (tmp_path / "a.csv").write_text("url,caption\nhttp://a/1,x\nhttp://a/2\nhttp://a/3,x\n")
    assert [row.url for row in open_list(tmp_path / "a.csv")] == ["http://a/1", "", "http://a/3"]
    (tmp_path / "a.jsonl").write_text('{"url": "http://a/1"}\nrubbish\n{"url": 7}\n[]\n{"url": "http://a/5"}\n')
    assert [row.url for row in open_list(tmp_path / "a.jsonl")] == ["http://a/1", "", "", "", "http://a/5"]


def test_a_line_ends_at_a_newline_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("a\u2028b\x0b\x85\thttp://a/1\nc\rd\thttp://a/2\r\n".encode())
    assert [(row.number, row.url) for row in open_list(tmp_path / "a.tsv")] == [(0, "http://a/1"), (1, "http://a/2")]


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        (
            "a.csv",
            "a,b\n1,2\n",
            (None, None),
            r"no column is called url or .*; there are 'a', 'b': name one as 'url_col'",
        ),
        ("a.csv", "url,b\n1,2\n", (None, "c"), "no column is called c; .*'caption_col'"),
        ("a.tsv", "a\tb\n", (None, None), "no address in its first row"),
        ("a.tsv", "a\thttp://a\n", ("5", None), "'url_col' is 5, and its first row has columns 0 to 1"),
        ("a.txt", "http://a\n", ("0", None), "has no columns"),
        ("a.xml", "", (None, None), "expected a list ending in .tsv"),
    ],
)
def test_lists_that_cannot_be_taken(
    tmp_path: Path, name: str, content: str, columns: tuple[str | None, str | None], said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said):
        open_list(tmp_path / name, *columns)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_empty_file_is_none(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=name):
        open_list(tmp_path / name)
