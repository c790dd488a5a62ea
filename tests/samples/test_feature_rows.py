"""Features in place of the images of a data set."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from git_caption.errors import DataError
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.feature_rows import EncodedSample, EncodedSamples
from git_caption.samples.features import Block, FeatureCache, FeatureRow, write
from git_caption.samples.sample import Failure
from git_caption.samples.training_tsv import TrainingTsv
from git_caption.tsv.rows import CaptionRow
from git_caption.tsv.writer import TsvWriter
from tests.feature_origins import description


def data(folder: Path, keys: list[str]) -> TrainingTsv:
    """Captions of images that are none: they are not to be read."""
    with TsvWriter(folder / "a.img.tsv") as images, TsvWriter(folder / "a.caption.tsv") as captions:
        for key in keys:
            images.write([key, "not an image"])
            captions.write(CaptionRow(key, (f"about {key}",)).columns())
    return TrainingTsv(folder / "a.img.tsv", folder / "a.caption.tsv", None)


def cache(folder: Path, counts: dict[str, int]) -> FeatureCache:
    rows = [FeatureRow(key, np.full((count, 2), count, dtype=np.float32)) for key, count in counts.items()]
    with open(folder / "f", "wb") as file:
        write(file, lambda: iter([Block.of(rows, "float32")]), description(), "float32")
    return FeatureCache(folder / "f")


def test_a_row_is_its_features_with_its_texts_and_no_image_is_read(tmp_path: Path) -> None:
    samples = EncodedSamples(data(tmp_path, ["x", "y"]), cache(tmp_path, {"x": 3, "y": 1}))
    assert len(samples) == 2
    assert [path.name for path in samples.inputs] == ["a.img.tsv", "a.caption.tsv", "f"]
    for row, (key, count) in enumerate({"x": 3, "y": 1}.items()):
        found = pickle.loads(pickle.dumps(samples)).read(row)
        assert isinstance(found, EncodedSample)
        assert (found.texts.key, found.texts.captions) == (key, (f"about {key}",))
        assert found.values.tolist() == [[count] * 2] * count


def test_rows_without_features_or_of_other_images_are_failures(tmp_path: Path) -> None:
    samples = EncodedSamples(data(tmp_path, ["x", "y"]), cache(tmp_path, {"x": 0, "z": 1}))
    where = tmp_path / "f"
    assert samples.read(0) == Failure("x", f"{where}:1: no features of key 'x', which could not be processed", ())
    other = samples.read(1)
    assert isinstance(other, Failure) and other.reason.startswith(f"{where}:2: the key is 'z', and 'y' in the data; ")


def test_features_of_more_or_fewer_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/f has features of 1 rows, and the data, image TSV and .* has 2: make the"):
        EncodedSamples(data(tmp_path, ["x", "y"]), cache(tmp_path, {"x": 1}))


def test_a_pickle_of_clipcap_is_data_and_features_at_once(tmp_path: Path) -> None:
    captions = [{"image_id": 3, "caption": text, "clip_embedding": row} for row, text in enumerate(("a dog", " "))]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"clip_embedding": torch.ones(2, 4), "captions": captions}))
    content = ClipCapPickle(tmp_path / "a.pkl")
    samples = EncodedSamples(content, content)
    assert samples.inputs == (tmp_path / "a.pkl",)
    first = samples.read(0)
    assert isinstance(first, EncodedSample)
    assert (first.texts.captions, first.values.tolist()) == (("a dog",), [[1.0] * 4])
    assert samples.read(1) == Failure("", f"{tmp_path}/a.pkl: caption 2: an empty caption", ())
