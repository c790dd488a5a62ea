import random

import pytest

from git_caption.shapes.captions import captions
from git_caption.shapes.parser import attribute_accuracy, objects_right, parse
from git_caption.shapes.scenes import Object, Scene, random_scene

RED = Object("circle", "red", "small", "top left")
BLUE = Object("star", "blue", "large", "center")
SCENE = Scene((RED, BLUE))


def test_the_five_captions_of_a_scene_read_as_written_here():
    assert captions(SCENE) == [
        "a small red circle in the top left and a large blue star in the center.",
        "there is a small red circle in the top left and a large blue star in the center.",
        "the picture shows a circle in the top left that is small and red and a star in the center that is large and "
        "blue.",
        "top left: small red circle; center: large blue star.",
        "two objects: a small circle in red at the top left and a large star in blue at the center.",
    ]


def test_every_caption_of_every_scene_parses_to_its_objects():
    rng = random.Random(1)
    for _ in range(400):
        scene = random_scene(rng)
        for caption in captions(scene):
            assert parse(caption) == scene.objects, caption
            assert attribute_accuracy(caption, scene) == 1.0


@pytest.mark.parametrize(
    "caption",
    [
        "",
        ".",
        "a small red circle in the top left",  # no full stop
        "A small red circle in the top left.",
        "a small red circle in the top left .",
        "a red small circle in the top left.",
        "a small red circle in the middle.",
        "a small pink circle in the top left.",
        "there is a small red circle in the top left and.",
        "three objects: a small circle in red at the top left and a large star in blue at the center.",
        "a small red circle in the top left; a large blue star in the center.",
        "top left: small red circle, center: large blue star.",
        "a small red circle in the top left. a large blue star in the center.",
    ],
)
def test_what_is_not_one_of_the_five_forms_to_the_letter_is_wrong(caption):
    assert parse(caption) is None
    assert attribute_accuracy(caption, SCENE) == 0.0


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        ((RED, BLUE), 1.0),
        ((BLUE, RED), 1.0),  # the order does not matter
        ((RED,), 4 / 8),  # a missing object: all its attributes wrong
        ((RED, BLUE, BLUE), 8 / 12),  # an extra object: as wrong
        ((Object("circle", "green", "small", "top left"), BLUE), 7 / 8),
        ((Object("circle", "red", "small", "center"), Object("star", "blue", "large", "top left")), 6 / 8),
    ],
)
def test_attributes_count_under_the_best_matching(stated, right):
    assert objects_right(stated, SCENE.objects) == right


def test_a_caption_of_a_hundred_objects_is_wrong_and_answered_at_once():
    caption = ", ".join(["a small red circle in the top left"] * 100) + "."
    assert attribute_accuracy(caption, SCENE) == 0.0
