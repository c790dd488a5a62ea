from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from git_caption.errors import DataError
from git_caption.samples.clipcap_pickle import ClipCapPickle

CAPTIONS = [
    {"image_id": 7, "id": 70, "caption": "a dog", "clip_embedding": 0},
    {"image_id": 7, "id": 71, "caption": "a brown dog", "clip_embedding": 1},
    {"image_id": "x8", "id": 80, "caption": "a cat", "clip_embedding": 2},
]


def pickled(path: Path, embeddings: Any, captions: Any = CAPTIONS) -> Path:
    """As parse_coco.py writes it."""
    with open(path, "wb") as file:
        pickle.dump({"clip_embedding": embeddings, "captions": captions}, file)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_each_caption_is_a_row_with_the_features_of_its_image(tmp_path: Path, dtype: torch.dtype) -> None:
    embeddings = torch.randn(3, 5).to(dtype)
    found = ClipCapPickle(pickled(tmp_path / "a.pkl", embeddings))
    assert (len(found), found.tokens, found.width) == (3, 1, 5)
    assert [(t.key, t.captions) for t in map(found.texts, range(3))] == [
        ("7", ("a dog",)),
        ("7", ("a brown dog",)),
        ("x8", ("a cat",)),
    ]
    for row, key in enumerate(("7", "7", "x8")):
        assert np.array_equal(found.values(row, key), embeddings[row : row + 1].numpy())
        assert found.values(row, key).dtype == embeddings.numpy().dtype
    with pytest.raises(DataError, match=r"a\.pkl: caption 3: the image id is 'x8', and '7' in the data"):
        found.values(2, "7")


@pytest.mark.parametrize("name", ["ViT-B_32_train", "fp16"])
def test_the_tools_own_files_are_read_as_it_reads_them(shared_data: Path, name: str) -> None:
    folder = shared_data / "legacy" / "clipcap_parse_coco"
    expected = json.loads((folder / "expected.json").read_bytes())
    found = ClipCapPickle(folder / f"oscar_split_{name}.pkl")
    assert list(found.embeddings.shape) == expected["shape"] and len(found) == expected["n_captions"]
    first = expected["first_caption"]
    assert (found.texts(0).key, found.texts(0).captions) == (str(first["image_id"]), (first["caption"],))
    own = pickle.loads((folder / f"oscar_split_{name}.pkl").read_bytes())  # ours, so that it may be trusted
    for row, entry in enumerate(own["captions"]):
        values = found.values(row, str(entry["image_id"]))
        assert np.array_equal(values[0], own["clip_embedding"][entry["clip_embedding"]].numpy())
        assert values.dtype == (np.float16 if name == "fp16" else np.float32)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_views_and_other_precisions_and_protocols_are_read(tmp_path: Path, protocol: int) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    view = base.T[1:4, 1:3]  # an offset, and strides of its own
    for number, embeddings in enumerate((view, view.double(), view.bfloat16())):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps({"clip_embedding": embeddings, "captions": CAPTIONS}, protocol))
        assert ClipCapPickle(path).embeddings.tolist() == view.tolist()


class Payload:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def touch(path: Path) -> Payload:
    return Payload(os.system, f"touch {path}")


@pytest.mark.parametrize("place", ["instead", "in the captions", "in an entry", "as a key"])
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_in_it_runs(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "mark"
    evil = touch(mark)
    content = {
        "instead": evil,
        "in the captions": {"clip_embedding": torch.zeros(1, 2), "captions": evil},
        "in an entry": {"clip_embedding": torch.zeros(1, 2), "captions": [{"caption": evil}]},
        "as a key": {"clip_embedding": torch.zeros(1, 2), "captions": [], evil: 1},
    }[place]
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError) as refused:
        ClipCapPickle(path)
    assert "asks for posix.system, which is neither a tensor nor a container" in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert mark.exists()


def test_a_command_in_the_pickle_of_a_tensors_numbers_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    inner = io.BytesIO()
    torch.save({"a": touch(mark)}, inner, _use_new_zipfile_serialization=False)
    path = tmp_path / "evil.pkl"
    payload = Payload(torch.storage._load_from_bytes, inner.getvalue())
    path.write_bytes(pickle.dumps({"clip_embedding": payload, "captions": []}))
    with pytest.raises(DataError, match="not a readable pickle of embeddings and captions: "):
        ClipCapPickle(path)
    assert not mark.exists()
    torch.storage._load_from_bytes(inner.getvalue())
    assert mark.exists()


@pytest.mark.parametrize("call", [eval, getattr, __import__, torch.load, np.array, Path])
def test_every_other_global_is_refused(tmp_path: Path, call: Any) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(call))
    with pytest.raises(DataError, match=rf"it asks for \S+\.{call.__name__}, which is neither"):
        ClipCapPickle(path)


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    good = pickle.dumps({"clip_embedding": torch.zeros(3, 4), "captions": []}, 3)
    path = tmp_path / "a.pkl"
    path.write_bytes(good.replace(b"K\x03K\x04\x86", b"K\x09K\x04\x86"))
    assert path.read_bytes() != good
    with pytest.raises(DataError, match=r"a\.pkl: not a readable pickle .* out of bounds for storage"):
        ClipCapPickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a dict with 'clip_embedding', a tensor"),
        ({"clip_embedding": [1], "captions": []}, "expected a dict with"),
        ({"clip_embedding": torch.zeros(3), "captions": []}, "expected a dict with"),
        ({"clip_embedding": torch.zeros(3, 2), "captions": {}}, "expected a dict with"),
        ({"clip_embedding": torch.full((1, 2), torch.nan), "captions": []}, "values that are no finite numbers"),
        ({"clip_embedding": torch.zeros(3, 2), "captions": [*CAPTIONS, 5]}, "caption 4: expected 'image_id'"),
        ({"clip_embedding": torch.zeros(3, 2), "captions": [{**CAPTIONS[0], "caption": 1}]}, "caption 1: expected"),
        (
            {"clip_embedding": torch.zeros(2, 2), "captions": CAPTIONS},
            "caption 3: 'clip_embedding' is 2, and there are 2",
        ),
    ],
)
def test_another_pickle_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=rf"a\.pkl: .*{message}"):
        ClipCapPickle(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95"])
def test_what_is_no_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pkl: not a readable pickle of embeddings and captions: "):
        ClipCapPickle(tmp_path / "a.pkl")
