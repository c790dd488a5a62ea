"""One picture as several encoders see it, against what each sees alone."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from git_caption.images import reader as reading
from git_caption.images.augment import Augmentation
from git_caption.images.reader import ImageReader
from git_caption.images.strip import Strip
from git_caption.images.transform import Transform

SMALL, LARGE = Transform(32), Transform(200, "bilinear", "squash")


def jpeg(width: int, height: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def squares(strip: np.ndarray) -> list[np.ndarray]:
    assert strip.shape == (3, 1, 32**2 + 200**2)
    return [strip[..., : 32**2].reshape(3, 32, 32), strip[..., 32**2 :].reshape(3, 200, 200)]


@pytest.mark.parametrize(
    ("size", "exact", "decodings"),
    [((180, 160), False, 1), ((1600, 1400), False, 2), ((1600, 1400), True, 1)],  # the second is scaled by 8 and by 2
)
def test_each_sees_what_it_sees_alone_and_the_picture_is_decoded_once_for_each_scale(
    size, exact, decodings, monkeypatch
):
    data = jpeg(*size)
    alone = [ImageReader(transform, exact_decode=exact)(data) for transform in (SMALL, LARGE)]
    calls = []
    decode = reading.decode
    monkeypatch.setattr(reading, "decode", lambda *given, **keys: calls.append(1) or decode(*given, **keys))
    together = squares(ImageReader(Strip((SMALL, LARGE)), exact_decode=exact)(data))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert len(calls) == decodings


def test_a_picture_that_is_changed_at_random_is_changed_once_for_all():
    reader = ImageReader(Strip((LARGE, LARGE)), augmentation=Augmentation(flip=True))
    strip = reader(jpeg(300, 260), random.Random(0))
    assert np.array_equal(strip[..., : 200**2], strip[..., 200**2 :])
