import io

import numpy as np
import pytest
from PIL import Image

from git_caption.shapes.render import SIDE, render, to_jpeg
from git_caption.shapes.scenes import PLACES, SHAPES, Object, Scene

PURE = {"red": 0, "green": 1, "blue": 2}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("color", PURE)
def test_an_object_is_painted_in_its_color_at_its_place(place, color):
    pixels = np.asarray(render(Scene((Object("circle", color, "large", place),)), 5)).astype(int)
    row, column = divmod(PLACES.index(place), 3)
    cell = SIDE // 3
    y, x = row * cell + cell // 2, column * cell + cell // 2
    channel = PURE[color]
    others = [pixels[y, x, other] for other in range(3) if other != channel]
    assert pixels[y, x, channel] > max(others) + 60


@pytest.mark.parametrize("shape", SHAPES)
def test_large_objects_cover_more_than_small_ones(shape):
    def area(size: str) -> int:
        pixels = np.asarray(render(Scene((Object(shape, "white", size, "center"),)), 9)).astype(int)
        return int((pixels.min(axis=2) > 200).sum())

    assert area("large") > 2 * area("small") > 20


def test_the_same_seed_paints_the_same_picture_and_another_seed_another():
    scene = Scene((Object("star", "yellow", "small", "center"),))
    first, again, other = (np.asarray(render(scene, seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_jpeg_bytes_hold_the_picture():
    picture = render(Scene((Object("star", "yellow", "large", "center"),)), 1)
    read = Image.open(io.BytesIO(to_jpeg(picture)))
    assert read.format == "JPEG" and read.size == (SIDE, SIDE)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(picture)).mean() < 4
