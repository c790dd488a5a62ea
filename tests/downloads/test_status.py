from __future__ import annotations

from pathlib import Path

import pytest

from git_caption.downloads.near import near_duplicates
from git_caption.downloads.status import StatusLog, StatusRow, encode, locked, parse_line, read_rows
from git_caption.downloads.store import Blobs, BlobStore
from git_caption.errors import DataError

ROW = StatusRow("00000007", "http://a/\té\ud800", 200, "ok", 12, "ab", 3, 4, 0.12349)


def test_a_row_is_a_line_of_json_with_sorted_keys() -> None:
    assert encode(ROW) == (
        b'{"bytes":12,"cause":"ok","height":4,"key":"00000007","seconds":0.123,"sha256":"ab","status":200,'
        b'"url":"http://a/\\t\\u00e9\\ud800","width":3}\n'
    )
    assert parse_line(encode(ROW), "here").url == ROW.url


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(encode(ROW) + b'{"key": 1}\n')
    with pytest.raises(DataError, match=r"log:2: .* is no status row"):
        list(read_rows(path))


@pytest.mark.parametrize("torn", [b"", b'{"key":"0000', b"x" * 100_000])
def test_the_beginning_of_a_line_that_a_kill_left_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(encode(ROW) + torn)
    assert [row.key for row in read_rows(path)] == ["00000007"]
    log = StatusLog(path)
    log.append([ROW, ROW])
    log.close()
    assert path.read_bytes() == 3 * encode(ROW)


def test_the_image_that_a_kill_tore_is_dropped_from_a_blob(tmp_path: Path) -> None:
    BlobStore(tmp_path, 10).put([(3, b"three"), (14, b"fourteen"), (4, None)])
    path = tmp_path / "00000.blob"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-1])
    BlobStore(tmp_path, 10).put([(5, b"five"), (3, b"again")])
    found = Blobs([tmp_path], 0)
    assert [found.get(row) for row in (3, 4, 5)] == [b"again", None, b"five"]
    assert Blobs([tmp_path], 1).get(14) == b"fourteen"


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third:
        assert third
    with locked(tmp_path / "gone") as fourth:
        assert not fourth


def test_images_that_differ_in_few_bits_are_marked_with_the_first_of_them() -> None:
    hashes = [0xFFFF0000FFFF0000, 0x0123456789ABCDEF, 0xFFFF0000FFFF0007, 0xFFFF0000FFFF000F, 0x0123456789ABCDEF]
    rows = [StatusRow(f"{n:08d}", "", 200, "ok", hash=f"{value:016x}") for n, value in enumerate(hashes)]
    assert near_duplicates(rows) == {2: 0, 3: 2, 4: 1}  # 3 bits from 0, 1 from 2 but 4 from 0, none
