from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.images.decode import decode
from git_caption.images.transform import Transform, normalise

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

SIZES = [(224, 224), (225, 224), (224, 225), (1, 1), (3, 2), (7, 300), (301, 299), (640, 427), (427, 640), (223, 1009)]


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resolution", [224, 97])
def test_pixels_equal_open_clips_transform_bit_for_bit(resolution: int, interpolation: str) -> None:
    import torch
    from open_clip.transform import image_transform

    theirs = image_transform(resolution, is_train=False, mean=MEAN, std=STD, interpolation=interpolation)
    ours = Transform(resolution, interpolation)
    for size in SIZES:
        image = noise(*size)
        expected = theirs(image)
        seen = normalise(torch.from_numpy(ours(image)), MEAN, STD)
        assert seen.dtype == torch.float32
        assert torch.equal(seen, expected), size


def test_pixels_of_real_photographs_equal_open_clips_bit_for_bit(photos) -> None:
    import torch
    from open_clip.transform import image_transform

    theirs = image_transform(224, is_train=False, mean=MEAN, std=STD)
    images = [decode(path.read_bytes(), exif=False) for path in sorted(photos.iterdir())]
    expected = torch.stack([theirs(Image.open(path)) for path in sorted(photos.iterdir())])
    pixels = torch.from_numpy(np.stack([Transform(224)(image) for image in images]))
    assert torch.equal(normalise(pixels, MEAN, STD), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squashed_pixels_equal_open_clips_bit_for_bit(interpolation: str) -> None:
    import torch
    from open_clip.transform import image_transform

    theirs = image_transform(97, is_train=False, mean=MEAN, std=STD, interpolation=interpolation, resize_mode="squash")
    ours = Transform(97, interpolation, "squash")
    for size in [*SIZES, (97, 97), (97, 300)]:
        image = noise(*size)
        assert torch.equal(normalise(torch.from_numpy(ours(image)), MEAN, STD), theirs(image)), size


# Worked out by hand from GenerativeImage2Text's rule: the shorter side to 480, unless the longer one would pass 640.
KEPT = [
    ((640, 480), (640, 480)),
    ((1000, 1000), (480, 480)),
    ((100, 100), (480, 480)),
    ((960, 800), (576, 480)),
    ((800, 960), (480, 576)),
    ((1000, 500), (640, 320)),
    ((500, 1000), (320, 640)),
    ((333, 500), (426, 639)),  # 640 * 333 / 500 = 426.24; 426 * 500 / 333 = 639.6
    ((500, 331), (640, 424)),  # 640 * 331 / 500 = 423.68 is rounded up; 424 * 500 / 331 = 640.5
]


@pytest.mark.parametrize(("size", "expected"), KEPT)
def test_a_kept_shape_is_resized_as_git_does(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = noise(*size)
    pixels = Transform(480, resize="keep", longest=640)(image)
    assert pixels.shape == (3, expected[1], expected[0])
    assert np.array_equal(pixels, np.asarray(image.resize(expected, Image.Resampling.BICUBIC)).transpose(2, 0, 1))


def test_a_kept_shape_without_bound_has_its_shorter_side_alone_set() -> None:
    assert Transform(48, resize="keep")(noise(1000, 10)).shape == (3, 48, 4800)


def test_what_is_no_whole_patch_is_cut_at_the_right_and_at_the_bottom() -> None:
    image = noise(333, 500)
    whole = Transform(480, resize="keep", longest=640)(image)
    cut = Transform(480, resize="keep", longest=640, cell=16)(image)
    assert cut.shape == (3, 624, 416)
    assert np.array_equal(cut, whole[:, :624, :416])


def test_a_kept_shape_too_narrow_for_a_patch_is_refused() -> None:
    Transform(480, resize="keep", longest=640, cell=16)(noise(40, 1600))
    message = r"39 x 1600: its longer side scaled to 640, the shorter one would be 16; expected at least 17"
    with pytest.raises(DataError, match=message):
        Transform(480, resize="keep", longest=640, cell=17)(noise(39, 1600))
    with pytest.raises(DataError, match=r"1 x 2000: its longer side scaled to 640, .* would be 0; expected at least 1"):
        Transform(480, resize="keep", longest=640)(noise(1, 2000))


def test_the_middle_of_a_wide_picture_is_kept() -> None:
    image = Image.new("RGB", (30, 10), "white")
    image.paste((255, 0, 0), (10, 0, 20, 10))
    pixels = Transform(10)(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 10, 10)
    assert np.array_equal(pixels, np.broadcast_to(np.array([255, 0, 0], np.uint8)[:, None, None], (3, 10, 10)))


def test_pictures_too_narrow_to_scale_are_refused() -> None:
    Transform(224)(Image.new("RGB", (10, 10_000)))
    with pytest.raises(DataError, match=r"10 x 60000: .* scaled to 224, the longer one would be 1344000; .* 299593"):
        Transform(224)(Image.new("RGB", (10, 60_000)))


def test_normalise_keeps_its_input() -> None:
    import torch

    pixels = torch.full((2, 3, 1, 1), 51, dtype=torch.uint8)
    seen = normalise(pixels, (0.0, 0.1, 0.2), (1.0, 0.5, 0.1))
    assert torch.allclose(seen[1].flatten(), torch.tensor([0.2, 0.2, 0.0]), atol=1e-7)
    assert pixels.unique().tolist() == [51]


def test_squash_resizes_the_whole_picture_as_open_clip_does() -> None:
    import open_clip

    reference = open_clip.image_transform(
        64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", resize_mode="squash"
    )

    pixels = Transform(64, "bilinear", "squash")(noise(301, 97))

    assert np.array_equal(pixels, (reference(noise(301, 97)).numpy() * 255).round().astype(np.uint8))
