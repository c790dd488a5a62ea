import random

import numpy as np
from PIL import Image

from git_caption.images.augment import Augmentation


def picture() -> Image.Image:
    """Each pixel says where it is: red its column, green its row."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(100))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], 2).astype(np.uint8))


def drawn(flip: bool) -> list[tuple[int, int, int, int, bool]]:
    """Left, top, width, height of each of many parts, and whether it is mirrored."""
    found = []
    for number in range(200):
        part = np.asarray(Augmentation(flip)(picture(), random.Random(number))).astype(int)
        mirrored = bool(part[0, 0, 0] > part[0, -1, 0])
        whole = part[:, ::-1] if mirrored else part
        height, width = whole.shape[:2]
        left, top = whole[0, 0, 0], whole[0, 0, 1]
        columns, rows = np.meshgrid(np.arange(left, left + width), np.arange(top, top + height))
        assert (whole[..., 0] == columns).all() and (whole[..., 1] == rows).all()
        found.append((left, top, width, height, mirrored))
    return found


def test_a_part_keeps_the_shape_and_most_of_the_area_and_may_lie_anywhere():
    found = drawn(flip=False)
    for _, _, width, height, mirrored in found:
        assert abs(width - 2 * height) <= 1 and not mirrored
        assert 0.78 < width * height / 20_000 <= 1
    areas = [width * height / 20_000 for _, _, width, height, _ in found]
    assert min(areas) < 0.83 and max(areas) > 0.97
    assert min(left for left, *_ in found) == 0 and max(left + width for left, _, width, *_ in found) == 200


def test_half_of_the_pictures_are_mirrored_where_asked():
    assert 70 < sum(mirrored for *_, mirrored in drawn(flip=True)) < 130


def test_the_same_draw_gives_the_same_part_of_a_picture_of_one_pixel_too():
    one, again = (Augmentation(True)(picture(), random.Random(5)) for _ in range(2))
    assert np.array_equal(np.asarray(one), np.asarray(again))
    assert Augmentation(True)(Image.new("RGB", (1, 1)), random.Random(0)).size == (1, 1)
