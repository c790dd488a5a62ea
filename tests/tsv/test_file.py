from __future__ import annotations

import multiprocessing
import os
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from git_caption.errors import DataError, UsageError
from git_caption.tsv.file import TsvFile


def made(tmp_path: Path, data: bytes) -> TsvFile:
    path = tmp_path / "rows.tsv"
    path.write_bytes(data)
    return TsvFile(path)


def test_rows_are_read_by_number(tmp_path: Path) -> None:
    file = made(tmp_path, b"a\t1\nb\t2\nc\t3\n")
    assert len(file) == 3
    assert file[2] == ["c", "3"]
    assert file[0] == ["a", "1"]
    assert [file.offset(row) for row in range(3)] == [0, 4, 8]
    assert file.where(2) == f"{tmp_path}/rows.tsv:3"
    assert list(file) == [["a", "1"], ["b", "2"], ["c", "3"]]


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, row: int) -> None:
    with pytest.raises(IndexError, match=rf"row {row} of 3"):
        made(tmp_path, b"a\nb\nc\n")[row]


def test_a_missing_last_newline_loses_nothing(tmp_path: Path) -> None:
    assert list(made(tmp_path, b"a\t1\nb\t2")) == [["a", "1"], ["b", "2"]]


def test_windows_line_endings_are_taken_off(tmp_path: Path) -> None:
    assert list(made(tmp_path, b"a\t1\r\nb\t2\r\nc\t3\r")) == [["a", "1"], ["b", "2"], ["c", "3"]]


def test_other_line_separators_are_text(tmp_path: Path) -> None:
    text = "k\u2028\x0b\x85\ry\tv\n"
    assert list(made(tmp_path, text.encode())) == [["k\u2028\x0b\x85\ry", "v"]]


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    assert list(made(tmp_path, b"\xef\xbb\xbfa\t1\n\xef\xbb\xbfb\t2\n")) == [["a", "1"], ["\ufeffb", "2"]]


def test_spaces_and_empty_columns_are_kept(tmp_path: Path) -> None:
    assert list(made(tmp_path, b" a \t\t b\n")) == [[" a ", "", " b"]]


@pytest.mark.parametrize("data", [b"a\n\nc\n", b"a\n\r\nc\n"])
def test_an_empty_line_is_an_error_that_names_the_row(tmp_path: Path, data: bytes) -> None:
    file = made(tmp_path, data)
    assert len(file) == 3
    with pytest.raises(DataError, match=r"rows\.tsv:2: empty line, expected columns"):
        file[1]
    assert file[2] == ["c"]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    file = made(tmp_path, b"a\nk\xe9\tv\n")
    with pytest.raises(DataError, match=r"rows\.tsv:2: byte 0xe9 at 1 is not UTF-8, expected UTF-8"):
        file[1]
    assert file.raw(1) == b"k\xe9\tv"


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.tsv: cannot open this TSV file: No such file"):
        TsvFile(tmp_path / "none.tsv")


def test_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a TSV file, found something else"):
        TsvFile(tmp_path)


def test_a_copy_in_another_process_opens_the_file_itself(tmp_path: Path) -> None:
    file = made(tmp_path, b"a\t1\nb\t2\n")
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    assert list(copy) == [["a", "1"], ["b", "2"]]


def test_an_index_in_memory_travels_with_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "rows.tsv").write_bytes(b"a\t1\nb\t2\n")
    folder.chmod(0o555)
    try:
        packed = pickle.dumps(TsvFile(folder / "rows.tsv"))
        monkeypatch.setattr("git_caption.tsv.index.scan", None)  # a second scan would fail
        assert list(pickle.loads(packed)) == [["a", "1"], ["b", "2"]]
    finally:
        folder.chmod(0o755)


def test_a_copy_of_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    packed = pickle.dumps(made(tmp_path, b"a\t1\nb\t2\n"))
    (tmp_path / "rows.tsv").write_bytes(b"a\t1\nb\t22\n")
    with pytest.raises(DataError, match=r"rows\.tsv: the file changed while it was in use"):
        pickle.loads(packed)


def test_a_file_rewritten_in_place_while_open_is_noticed(tmp_path: Path) -> None:
    file = made(tmp_path, b"aaa\t1\nbbb\t2\n")
    with open(tmp_path / "rows.tsv", "r+b") as other:
        other.write(b"a\t1\nbb\t2\nbb\n")
    with pytest.raises(DataError, match=r"rows\.tsv:1: bytes 0 to 6 are not one line; the file changed"):
        file[0]
    os.truncate(tmp_path / "rows.tsv", 8)
    with pytest.raises(DataError, match=r"rows\.tsv:2: bytes 6 to 12 are not one line"):
        file[1]


def lines_of(data: bytes) -> list[bytes]:
    """The definition: what stands between newlines, without a carriage return before one and a byte order mark."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    lines = [line.removesuffix(b"\r") for line in lines]
    return [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:]] if lines else []


@pytest.mark.runs(2000)
def test_any_bytes_are_rows_or_data_errors_also_with_any_index(tmp_path: Path, runs: int) -> None:
    source = random.Random(1)
    pieces = [b"\n", b"\r\n", b"\t", b"a", b"\xc3\xa9", b"\xff", b"\r", b"\xef\xbb\xbf", b"", b"key\tvalue\n"]
    for number in range(runs):
        path = tmp_path / f"{number}.tsv"
        data = b"".join(source.choices(pieces, k=source.randrange(30)))
        path.write_bytes(data)
        if number % 2:  # an index of something else, not older than the file
            offsets = sorted(source.sample(range(60), source.randrange(8)))
            path.with_suffix(".lineidx.8b").write_bytes(b"".join(o.to_bytes(8, "little") for o in [0, *offsets]))
        lines = lines_of(data)
        file = TsvFile(path)
        if len(file) != len(lines):  # an index of some of the lines only fits by chance, until a row is read
            assert number % 2
            with pytest.raises(DataError, match="are not one line"):
                list(file)
            continue
        for row, line in enumerate(lines):
            assert file.raw(row) == line
            try:
                assert "\t".join(file[row]).encode() == line
            except DataError as error:
                assert f"{number}.tsv:{row + 1}: " in str(error)
                assert not line or b"\xff" in line


def test_processes_that_index_a_file_at_once_all_read_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"".join(b"%d\tv\n" % number for number in range(50_000)))
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(last_key, [path] * 8)) == ["49999"] * 8
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.lineidx", "rows.lineidx.8b", "rows.tsv"]


def last_key(path: Path) -> str:
    return TsvFile(path)[49_999][0]


def test_threads_share_one_file(tmp_path: Path) -> None:
    file = made(tmp_path, b"".join(b"%d\t%s\n" % (n, b"x" * (n % 50)) for n in range(2000)))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: file[row][0], range(2000))) == [str(n) for n in range(2000)]


def test_the_with_block_closes_the_file(tmp_path: Path) -> None:
    with made(tmp_path, b"a\n") as file:
        assert file[0] == ["a"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        file[0]


def test_real_photographs_are_read_without_writing_beside_them(shared_data: Path) -> None:
    before = sorted(path.name for path in shared_data.iterdir())
    file = TsvFile(shared_data / "photos.img.tsv")
    assert len(file) == 18
    assert [columns[0] for columns in file] == [key for key, _ in TsvFile(shared_data / "photos.question.tsv")]
    if not shared_data.stat().st_mode & 0o222:
        assert sorted(path.name for path in shared_data.iterdir()) == before
