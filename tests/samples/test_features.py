from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from git_caption.errors import DataError, UsageError
from git_caption.params.model import TransformConfig
from git_caption.samples.features import Block, FeatureCache, FeatureRow, padded, write
from git_caption.samples.inputs import identity
from tests.feature_origins import description, origin

STATUS = Path("/proc/self/status")


def rows(counts: list[int], width: int = 3, first: int = 0) -> list[FeatureRow]:
    """Rows whose numbers say which row, token and column they are."""
    found = []
    for number, count in enumerate(counts, first):
        values = 100 * number + 10 * np.arange(count)[:, None] + np.arange(width)[None]
        found.append(FeatureRow(f"k{number}é", values.astype(np.float32)))
    return found


def written(path: Path, blocks: list[list[FeatureRow]], stored_as: str = "float32", **described: object) -> Path:
    with open(path, "wb") as file:
        write(file, lambda: (Block.of(block, stored_as) for block in blocks), description(**described), stored_as)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two blocks of different N, and a row without features."""
    return written(tmp_path / "a.features", [rows([2, 0, 1]), rows([3, 1], first=3)])


def test_rows_come_back_with_their_keys_and_without_their_padding(cache: Path) -> None:
    found = FeatureCache(cache)
    assert (len(found), found.tokens, found.width) == (5, 3, 3)
    assert [row.key for row in map(found.__getitem__, range(5))] == ["k0é", "k1é", "k2é", "k3é", "k4é"]
    for row, expected in enumerate(rows([2, 0, 1, 3, 1])):
        assert found[row].values.tolist() == expected.values.tolist()
    assert found.description == description()


def test_any_reader_of_safetensors_reads_it(cache: Path) -> None:
    with safe_open(cache, "np") as file:
        values = file.get_tensor("values")
        assert values.shape == (5, 3, 3)
        assert values[3].tolist() == rows([3], first=3)[0].values.tolist()
        assert values[0, 2].tolist() == [0, 0, 0]
        assert file.get_tensor("counts").tolist() == [2, 0, 1, 3, 1]
        assert bytes(file.get_tensor("keys")).decode() == "k0ék1ék2ék3ék4é"
        assert json.loads(file.metadata()["made_from"])["origin"]["image_encoder"] == "ViT-B/32"


def test_float16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    row = FeatureRow("a", np.array([[0.1, 1 / 3]], dtype=np.float32))
    found = FeatureCache(written(tmp_path / "half", [[row]], "float16"))[0].values
    assert found.dtype == np.float16
    assert found.tolist() == row.values.astype(np.float16).tolist()


def test_no_rows_and_no_features_at_all_are_caches_too(tmp_path: Path) -> None:
    assert len(FeatureCache(written(tmp_path / "none", []))) == 0
    failed = FeatureCache(written(tmp_path / "failed", [rows([0, 0], width=0)]))
    assert [len(failed[row].values) for row in range(2)] == [0, 0]


def test_values_are_the_pages_of_the_file_and_cannot_be_written(cache: Path) -> None:
    values = FeatureCache(cache)[3].values
    assert not values.flags.owndata and not values.flags.writeable


def test_another_process_maps_the_file_for_itself(cache: Path) -> None:
    packed = pickle.dumps(FeatureCache(cache))
    assert len(packed) < 500
    program = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())[3].values.sum())"
    run = subprocess.run([sys.executable, "-c", program], input=packed, capture_output=True, check=True)
    assert float(run.stdout) == rows([3], first=3)[0].values.sum()


def test_the_cache_needs_no_torch() -> None:
    program = "import sys; import git_caption.samples.feature_rows; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"


@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of a process from /proc")
def test_memory_stays_flat_while_all_rows_are_read(tmp_path: Path) -> None:
    block = Block.of([FeatureRow("a", np.ones((64, 256), np.float32))] * 100, "float32")
    with open(tmp_path / "big", "wb") as file:
        write(file, lambda: iter([block] * 10), description(), "float32")
    assert (tmp_path / "big").stat().st_size > 60e6

    def anonymous() -> float:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1000

    before = anonymous()
    cache = FeatureCache(tmp_path / "big")
    assert sum(float(cache[row].values.sum()) for row in range(len(cache))) == 1000 * 64 * 256
    assert anonymous() - before < 5


def test_a_row_is_asked_for_with_the_key_that_it_has_elsewhere(cache: Path) -> None:
    found = FeatureCache(cache)
    assert found.values(3, "k3é").shape == (3, 3)
    with pytest.raises(DataError, match=r"a\.features:4: the key is 'k3é', and 'k5' in the data; .* make the features"):
        found.values(3, "k5")
    with pytest.raises(DataError, match=r"a\.features:2: no features of key 'k1é', which could not be processed"):
        found.values(1, "k1é")


def test_features_of_another_encoder_are_refused_with_both_values(cache: Path) -> None:
    found = FeatureCache(cache)
    found.check_origin(origin(), "model")
    found.check_origin(origin(image_encoder="/weights/ViT-B-32.pt"), "model")  # the same weights by another name
    other = origin(image_encoder="RN50", weights="cd" * 32, output="pooled", transform=TransformConfig(64))
    with pytest.raises(UsageError) as refused:
        found.check_origin(other, "data/model")
    assert str(refused.value) == (
        f"{cache}: not the features of data/model: image_encoder 'ViT-B/32' there, 'RN50' in it; weights "
        "abababababab... there, cdcdcdcdcdcd... in it; output 'grid' there, 'pooled' in it; transform.resolution 32 "
        "there, 64 in it; make them anew with it"
    )
    with pytest.raises(UsageError, match=r"not the prefix of m: mapper None there, efefefefefef\.\.\. in it"):
        found.check_origin(origin(mapper="ef" * 32), "m")


def test_features_of_other_files_are_refused_with_both_values(tmp_path: Path) -> None:
    data = tmp_path / "images.tsv"
    data.write_bytes(b"a\tb\n")
    cache = FeatureCache(written(tmp_path / "f", [rows([1])], inputs=(identity(data),)))
    cache.check_inputs([data])
    (tmp_path / "elsewhere").mkdir()
    moved = data.rename(tmp_path / "elsewhere" / "images.tsv")
    cache.check_inputs([moved, tmp_path / "f"])
    moved.write_bytes(b"a\tbcd\n")
    with pytest.raises(
        UsageError, match=r"/f: made from \S+/images\.tsv of 4 bytes, .* now \S+elsewhere\S+ of 6 bytes"
    ):
        cache.check_inputs([moved])


def damaged(path: Path, change: object) -> Path:
    """The file with its header changed, its length kept true."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    entries = json.loads(content[8 : 8 + length])
    change(entries)
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    return path


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, b"k\taGVsbG8=\n" * 9, struct.pack("<Q", 2) + b"{}"])
def test_another_file_is_no_cache(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(DataError, match=r"other: expected a feature cache, as 'extract_features' writes it; this is"):
        FeatureCache(tmp_path / "other")


def test_a_cut_file_is_refused_with_both_lengths(cache: Path) -> None:
    content = cache.read_bytes()
    for part in (content[:-1], content + b"x"):
        cache.write_bytes(part)
        with pytest.raises(DataError, match=rf"{len(part)} bytes long, expected {len(content)}: make it anew"):
            FeatureCache(cache)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries["values"].update(shape=[5, 3, 4]),
        lambda entries: entries["values"].update(shape=[5, 9]),
        lambda entries: entries["values"].update(shape=[-5, -3, 3]),
        lambda entries: entries["values"].update(dtype="I64"),
        lambda entries: entries["counts"].update(shape=[4]),
        lambda entries: entries["keys"].update(data_offsets=[0, 10**9]),
        lambda entries: entries.pop("keys"),
        lambda entries: entries.update(more=entries["keys"]),
    ],
)
def test_a_damaged_header_is_refused(cache: Path, change: object) -> None:
    with pytest.raises(DataError, match=r"its header is damaged: make it anew"):
        FeatureCache(damaged(cache, change))


def test_a_description_of_another_version_is_refused(cache: Path) -> None:
    def change(entries: dict) -> None:
        about = json.loads(entries["__metadata__"]["made_from"])
        entries["__metadata__"]["made_from"] = json.dumps({**about, "colour": "red"})

    with pytest.raises(DataError, match=r"expected a feature cache.*unknown key 'colour'"):
        FeatureCache(damaged(cache, change))


def test_a_row_that_is_damaged_is_named(cache: Path) -> None:
    content = bytearray(cache.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    content[start + 8 : start + 16] = struct.pack("<q", 7)  # the count of row 2, where N is 3
    cache.write_bytes(content)
    found = FeatureCache(cache)
    assert found[0].key == "k0é"
    with pytest.raises(DataError, match=r"a\.features:2: the file is damaged"):
        found[1]


def test_rows_of_different_lengths_are_padded_and_masked() -> None:
    values, mask = padded([row.values for row in rows([1, 2])])
    assert values.tolist() == [[[0, 1, 2], [0, 0, 0]], [[100, 101, 102], [110, 111, 112]]]
    assert mask.tolist() == [[True, False], [True, True]]
