from __future__ import annotations

import pickle
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from git_caption.images.decode import decode
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform, normalise

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@cache
def texture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise of every scale from blotches to single pixels, as busy as any photograph."""
    source = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    side = 4
    while side < min(width, height):
        coarse = Image.fromarray(source.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / side**0.5
        side *= 2
    total -= total.min()
    return Image.fromarray((255 * total / total.max()).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def open_clips(data: bytes, resolution: int, resize_mode: str = "shortest") -> torch.Tensor:
    """Pixels as open_clip's own transform gives them of the file opened by Pillow."""
    transform = image_transform(resolution, is_train=False, mean=MEAN, std=STD, resize_mode=resize_mode)
    return transform(Image.open(BytesIO(data)).convert("RGB"))


def apart(seen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Differences in grey levels of 255."""
    return np.abs(seen.astype(int) - other.astype(int))


LARGE = jpeg(texture(2400, 1800))


@pytest.mark.parametrize(("resize", "mode"), [("crop", "shortest"), ("squash", "squash")])
def test_exactly_decoded_pixels_equal_open_clips_bit_for_bit(resize: str, mode: str) -> None:
    for data in (LARGE, jpeg(texture(300, 420)), jpeg(texture(1000, 700), progressive=True)):
        seen = ImageReader(Transform(224, resize=resize), exact_decode=True)(data)
        assert torch.equal(normalise(torch.from_numpy(seen), MEAN, STD), open_clips(data, 224, mode))


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((300, 420), (300, 420)),
        ((1343, 2000), (1343, 2000)),  # a half would be less than 3 * 224
        ((1344, 2000), (672, 1000)),
        ((2800, 2700), (700, 675)),
        ((5376, 5400), (672, 675)),
    ],
)
def test_jpegs_are_scaled_to_no_less_than_three_times_the_side(
    size: tuple[int, int], decoded: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Transform, "__call__", lambda self, image: seen.append(image.size))
    data = jpeg(Image.new("RGB", size, "red"))
    ImageReader(Transform(224))(data)
    ImageReader(Transform(224), exact_decode=True)(data)
    assert seen == [decoded, size]


def test_pixels_of_files_that_are_not_scaled_are_exact_by_default_too() -> None:
    files = [jpeg(texture(1300, 700)), jpeg(texture(224, 224))]
    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        buffer = BytesIO()
        texture(1500, 1400).save(buffer, kind)
        files.append(buffer.getvalue())
    for data in files:
        difference = apart(ImageReader(Transform(224))(data), ImageReader(Transform(224), exact_decode=True)(data))
        assert difference.max() <= 1
        assert difference.mean() < 0.01


@pytest.mark.parametrize("resolution", [64, 336])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_pixels_of_large_jpegs_stay_near_the_exact_ones(resolution: int, options: dict[str, object]) -> None:
    means = []
    for size in ((2400, 1800), (1500, 3100), (1100, 1100)):
        data = jpeg(texture(*size), **options)
        exact = ImageReader(Transform(resolution), exact_decode=True)(data)
        means.append(apart(ImageReader(Transform(resolution))(data), exact).mean())
    assert median(means) < 1
    assert max(means) < 2  # worst seen 0.6


def test_large_jpegs_of_other_kinds_are_scaled_alike() -> None:
    picture = texture(1500, 1400)
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (jpeg(picture.convert("L")), jpeg(picture.convert("CMYK")), jpeg(picture, exif=exif)):
        exact, seen = (ImageReader(Transform(224), exact_decode=flag)(data) for flag in (True, False))
        assert seen.shape == (3, 224, 224)
        assert not np.array_equal(seen, exact)
        assert apart(seen, exact).mean() < 1


def test_a_scaled_jpeg_keeps_its_shape_where_shapes_are_kept() -> None:
    exact, seen = (
        ImageReader(Transform(224, resize="keep", longest=320, cell=16), exact_decode=flag)(LARGE)
        for flag in (True, False)
    )
    assert seen.shape == exact.shape == (3, 224, 288)
    assert apart(seen, exact).mean() < 1


def test_a_truncated_large_jpeg_is_refused_though_it_is_scaled() -> None:
    from git_caption.errors import DataError

    with pytest.raises(DataError, match="truncated"):
        ImageReader(Transform(224))(LARGE[: len(LARGE) // 2])


@pytest.mark.parametrize("resolution", [64, 128, 224, 336])
def test_pixels_of_real_photographs_stay_near_the_exact_ones(photos: Path, resolution: int) -> None:
    means = []
    for path in sorted(photos.iterdir()):
        data = path.read_bytes()
        exact = ImageReader(Transform(resolution), exact_decode=True)(data)
        difference = apart(ImageReader(Transform(resolution))(data), exact)
        if decode(data).size == decode(data, shorter_side=3 * resolution).size:
            assert difference.max() <= 1
            assert difference.mean() < 0.01
        means.append(difference.mean())
    assert median(means) < 1
    assert max(means) < 2  # worst seen 1.5, at 64


def test_exactly_decoded_real_photographs_equal_open_clips_bit_for_bit(photos: Path) -> None:
    for path in sorted(photos.iterdir()):
        seen = ImageReader(Transform(224), exif=False, exact_decode=True)(path.read_bytes())
        assert torch.equal(normalise(torch.from_numpy(seen), MEAN, STD), open_clips(path.read_bytes(), 224)), path.name


def test_a_reader_can_be_sent_to_workers() -> None:
    reader = ImageReader(Transform(8, "bilinear", "keep", 16, 2), exif=False, exact_decode=True)
    assert pickle.loads(pickle.dumps(reader)) == reader
