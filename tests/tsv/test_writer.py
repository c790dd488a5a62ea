from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_caption.errors import DataError
from git_caption.tsv import index, writer
from git_caption.tsv.file import TsvFile
from git_caption.tsv.writer import TsvWriter, encode, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_and_both_indexes_stand_under_their_names_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.tsv"
    with TsvWriter(path) as out:
        out.write(["ä", "1"])
        out.write(["b", ""])
        out.write(["c", "3"])
        assert out.rows == 3
        assert not path.exists()
    assert path.read_bytes() == "ä\t1\nb\t\nc\t3\n".encode()
    assert (path.parent / "out.lineidx").read_text() == "0\n5\n8\n"
    assert (path.parent / "out.lineidx.8b").read_bytes() == b"".join(o.to_bytes(8, "little") for o in (0, 5, 8))
    assert names(path.parent) == ["out.lineidx", "out.lineidx.8b", "out.tsv"]


def test_readers_take_the_written_index_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TsvWriter(tmp_path / "out.tsv") as out:
        out.write(["a", "1"])
    monkeypatch.setattr(index, "build", None)
    assert list(TsvFile(tmp_path / "out.tsv")) == [["a", "1"]]


def test_nothing_written_is_an_empty_file_with_empty_indexes(tmp_path: Path) -> None:
    with TsvWriter(tmp_path / "out.tsv"):
        pass
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"", b"", b""]


def test_an_exception_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    path.write_text("old\n")
    with pytest.raises(ValueError, match="stop"), TsvWriter(path) as out:
        out.write(["new"])
        raise ValueError("stop")
    assert path.read_text() == "old\n"
    assert names(tmp_path) == ["out.tsv"]


def test_rows_longer_than_the_buffer_are_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FLUSH_BYTES", 50)
    with TsvWriter(tmp_path / "out.tsv") as out:
        for number in range(100):
            out.write([str(number), "x" * (number % 7 * 30)])
    file = TsvFile(tmp_path / "out.tsv")
    assert [columns[0] for columns in file] == [str(number) for number in range(100)]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["k\tk", "v"], r"column 1 is 'k\\tk'"),
        (["k", "v\nw"], r"column 2 is 'v\\nw'"),
        (["k", "v\r"], r"column 2 is 'v\\r'"),
    ],
)
def test_columns_that_would_not_come_back_are_refused(tmp_path: Path, columns: list[str], found: str) -> None:
    with TsvWriter(tmp_path / "out.tsv") as out:
        out.write(["fine", "row"])
        with pytest.raises(DataError, match=rf"out\.tsv:2: {found}; a column may not hold a tab"):
            out.write(columns)


def test_an_empty_line_is_refused() -> None:
    for columns in ([], [""]):
        with pytest.raises(DataError, match=r"out:1: the line to write is empty"):
            encode(columns, "out:1")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(DataError, match=r"out:1: 'k\\udce9\\tv' is not Unicode text"):
        encode(["k\udce9", "v"], "out:1")


column = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=8)


@given(rows=st.lists(st.lists(column, min_size=1, max_size=3).filter(any), max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("written") / "out.tsv"
    with TsvWriter(path) as out:
        for row in rows:
            out.write(row)
    read = list(TsvFile(path))
    if rows and rows[0][0].startswith("\ufeff"):  # taken for a byte order mark
        rows = [[rows[0][0][1:], *rows[0][1:]], *rows[1:]]
    assert read == rows


def test_files_get_the_permissions_of_ordinary_new_files(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with TsvWriter(tmp_path / "out.tsv") as out:
            out.write(["a"])
        write_atomically(tmp_path / "other", b"x")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_an_atomic_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
