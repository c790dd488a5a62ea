from __future__ import annotations

import numpy as np
import pytest
import torch

from git_caption.captioner.captioner import Features
from git_caption.errors import JobFailed
from git_caption.pipeline.extraction import Extraction
from git_caption.samples.features import FeatureRow
from git_caption.samples.sample import Failure, ImageSample


class Means:
    """Gives an image of n rows of pixels n tokens: each row's mean times `scale`. Batches above `most` do not fit."""

    device = torch.device("cpu")

    def __init__(self, scale: float = 1.0, most: int = 100) -> None:
        self.scale = scale
        self.most = most
        self.sizes: list[int] = []

    def encode_many(self, pixels: list[np.ndarray], batch_size: int) -> Features:
        self.sizes.append(batch_size)
        if batch_size > self.most:
            raise torch.OutOfMemoryError("no memory")
        rows = []
        for image in pixels:
            values = torch.from_numpy(image.mean(axis=2).T.astype(np.float32))[None] * self.scale
            rows.append(Features(values, torch.ones(values.shape[:2], dtype=torch.bool)))
        return Features.joined(rows)


def samples(*heights: int) -> list[ImageSample]:
    return [ImageSample(f"k{height}", np.full((3, height, 2), height, dtype=np.uint8)) for height in heights]


def test_each_sample_gives_its_own_tokens_without_padding() -> None:
    found = Extraction(Means(), 4, "float32")(samples(2, 5))
    assert [(row.key, row.values.tolist()) for row in found] == [("k2", [[2.0] * 3] * 2), ("k5", [[5.0] * 3] * 5)]
    assert [row.values.dtype for row in found] == [np.float32] * 2


def test_what_float16_cannot_hold_is_a_failed_row_there_and_none_in_float32() -> None:
    half = Extraction(Means(20000.0), 4, "float16")(samples(2, 5))
    assert isinstance(half[0], FeatureRow) and half[0].values.dtype == np.float16
    assert half[1] == Failure("k5", "a value of 100000 is too large for float16: give 'stored_as': 'float32'", ())
    whole = Extraction(Means(20000.0), 4, "float32")(samples(2, 5))
    assert whole[1].values.tolist() == [[100000.0] * 3] * 5


def test_values_that_are_no_numbers_are_a_failed_row() -> None:
    found = Extraction(Means(float("nan")), 4, "float32")(samples(2))
    assert found == [Failure("k2", "the image encoder gives values that are no finite numbers", ())]


def test_a_batch_too_large_for_the_memory_is_halved_and_counted() -> None:
    extraction = Extraction(Means(most=1), 4, "float32")
    assert len(extraction(samples(2, 3, 4, 5))) == 4
    assert (extraction.encoder.sizes, extraction.halving.count) == ([4, 2, 1], 2)
    with pytest.raises(JobFailed, match=r"the memory of cpu does not hold the computation of one row \(no memory\)"):
        Extraction(Means(most=0), 1, "float32")(samples(2))
