from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_caption.tsv import index
from git_caption.tsv.file import TsvFile


def starts_of_lines(data: bytes) -> list[int]:
    """The definition, one byte at a time."""
    return [at for at in range(len(data)) if at == 0 or data[at - 1] == 10]


@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"x", b"\n")) | st.just(b"\n"), max_size=8))
def test_line_starts_do_not_depend_on_how_the_bytes_are_cut(blocks: list[bytes]) -> None:
    starts = index.LineStarts()
    seen = [offset for block in blocks for offset in starts.feed(block).tolist()]
    assert seen == starts_of_lines(b"".join(blocks))
    assert starts.count == len(b"".join(blocks))


def test_names_replace_the_last_extension_only() -> None:
    assert index.index_paths("a/b.img.tsv") == (Path("a/b.img.lineidx"), Path("a/b.img.lineidx.8b"))


@given(st.sets(st.integers(0, 2**62) | st.integers(0, 20_000).map(lambda n: 10 ** (n % 19) + n // 100), max_size=40))
def test_offsets_are_written_as_decimals_and_as_int64(tmp_path_factory: pytest.TempPathFactory, seen: set[int]) -> None:
    path = tmp_path_factory.mktemp("written") / "rows.tsv"
    offsets = sorted(seen)
    writer = index.IndexWriter(path)
    writer.extend(np.array(offsets[:7], dtype=np.int64))
    writer.extend(np.array(offsets[7:], dtype=np.int64))
    writer.commit(0)
    decimal, binary = index.index_paths(path)
    assert decimal.read_text() == "".join(f"{offset}\n" for offset in offsets)
    assert binary.read_bytes() == struct.pack(f"<{len(offsets)}q", *offsets)


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"".join(b"key%d\tvalue\n" % number for number in range(200)))
    return path


def stored(tsv: Path) -> list[int]:
    data = index.index_paths(tsv)[1].read_bytes()
    return list(struct.unpack(f"<{len(data) // 8}q", data))


def store(tsv: Path, offsets: list[int]) -> None:
    index.index_paths(tsv)[1].write_bytes(struct.pack(f"<{len(offsets)}q", *offsets))


def test_opening_a_file_writes_both_indexes(tsv: Path) -> None:
    expected = starts_of_lines(tsv.read_bytes())
    assert len(TsvFile(tsv)) == 200
    decimal, binary = index.index_paths(tsv)
    assert decimal.read_text() == "".join(f"{offset}\n" for offset in expected)
    assert binary.read_bytes() == struct.pack("<200q", *expected)
    assert sorted(path.name for path in tsv.parent.iterdir()) == ["rows.lineidx", "rows.lineidx.8b", "rows.tsv"]


def test_a_true_index_is_used_as_it_stands(tsv: Path) -> None:
    TsvFile(tsv)
    binary = index.index_paths(tsv)[1]
    before = binary.stat().st_ino
    assert TsvFile(tsv)[7] == ["key7", "value"]
    assert binary.stat().st_ino == before


def test_an_index_older_than_its_file_is_rebuilt(tsv: Path) -> None:
    TsvFile(tsv)
    # Same length, same last line: only its date tells. Row 30 was cut in two where no sample looks.
    data = tsv.read_bytes()
    at = data.index(b"key30\t")
    tsv.write_bytes(data[: at + 3] + b"\n" + data[at + 4 :])
    changed = tsv.stat().st_mtime_ns + 5_000_000_000
    os.utime(tsv, ns=(changed, changed))
    assert len(TsvFile(tsv)) == 201
    assert stored(tsv) == starts_of_lines(tsv.read_bytes())


def test_a_file_dated_in_the_future_keeps_its_index(tsv: Path) -> None:
    os.utime(tsv, (4e9, 4e9))
    TsvFile(tsv)
    before = index.index_paths(tsv)[1].stat().st_ino
    TsvFile(tsv)
    assert index.index_paths(tsv)[1].stat().st_ino == before


@pytest.mark.parametrize("change", ["longer", "shorter", "cut at a line"])
def test_an_index_of_another_length_is_rebuilt(tsv: Path, change: str) -> None:
    TsvFile(tsv)
    data = tsv.read_bytes()
    tsv.write_bytes({"longer": data + b"more\trow\n", "shorter": data[:-9], "cut at a line": data[:-13]}[change])
    os.utime(tsv, (1, 1))  # the index is not older, its content alone tells
    assert len(TsvFile(tsv)) == {"longer": 201, "shorter": 200, "cut at a line": 199}[change]
    assert stored(tsv) == starts_of_lines(tsv.read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda offsets: offsets[:-1],  # does not reach the last line
        lambda offsets: [*offsets, 10_000],  # beyond the end
        lambda offsets: [*offsets, offsets[-1]],  # the last line twice
        lambda offsets: [1, *offsets[1:]],  # does not begin at 0
        lambda offsets: [offsets[0], *(offset + 1 for offset in offsets[1:-1]), offsets[-1]],  # not after newlines
        lambda offsets: [0, *reversed(offsets[1:-1]), offsets[-1]],  # not in order
        lambda offsets: [-5, *offsets[1:]],
        lambda offsets: [],
    ],
)
def test_an_index_that_is_not_true_of_the_file_is_rebuilt(tsv: Path, spoil) -> None:
    expected = starts_of_lines(tsv.read_bytes())
    TsvFile(tsv)
    store(tsv, spoil(expected))
    assert TsvFile(tsv)[199] == ["key199", "value"]
    assert stored(tsv) == expected


def test_an_index_of_broken_size_is_rebuilt(tsv: Path) -> None:
    TsvFile(tsv)
    binary = index.index_paths(tsv)[1]
    binary.write_bytes(binary.read_bytes()[:-3])
    assert len(TsvFile(tsv)) == 200
    assert len(stored(tsv)) == 200


def test_an_empty_file_has_no_rows_and_an_empty_index(tmp_path: Path) -> None:
    path = tmp_path / "empty.tsv"
    path.touch()
    for _ in range(2):
        assert list(TsvFile(path)) == []
    assert index.index_paths(path)[1].read_bytes() == b""
    path.write_text("a\tb\n")
    os.utime(path, (1, 1))
    assert list(TsvFile(path)) == [["a", "b"]]


def test_in_a_read_only_folder_the_index_lives_in_memory(tsv: Path) -> None:
    tsv.parent.chmod(0o555)  # root could still write there: the folder's own permissions are respected
    try:
        assert TsvFile(tsv)[150] == ["key150", "value"]
        assert [path.name for path in tsv.parent.iterdir()] == ["rows.tsv"]
    finally:
        tsv.parent.chmod(0o755)


def test_where_the_disk_refuses_the_index_lives_in_memory_and_nothing_is_left(
    tsv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index.IndexWriter, "extend", refuse)
    assert TsvFile(tsv)[150] == ["key150", "value"]
    assert [path.name for path in tsv.parent.iterdir()] == ["rows.tsv"]


def test_files_longer_than_one_block_are_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BLOCK_BYTES", 64)
    path = tmp_path / "long.tsv"
    source = np.random.default_rng(3)
    path.write_bytes(b"".join(b"x" * int(length) + b"\n" for length in source.integers(0, 200, 300)))
    assert np.concatenate(list(index.scan(path))).tolist() == starts_of_lines(path.read_bytes())
    for _ in range(2):
        assert len(TsvFile(path)) == 300
