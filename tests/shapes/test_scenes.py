import random

import pytest

from git_caption.errors import DataError
from git_caption.shapes.scenes import PLACES, Object, Scene, random_scene, scene_from_json, scene_to_json
from git_caption.shapes.split import Splits


def test_objects_stand_in_reading_order_whatever_order_they_are_given_in():
    late, early = Object("star", "red", "small", "bottom left"), Object("cross", "blue", "large", "top right")
    assert Scene.of([late, early]) == Scene((early, late))


def test_random_scenes_hold_one_to_three_objects_in_different_places():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(600)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert all(len({item.place for item in scene.objects}) == len(scene.objects) for scene in scenes)
    assert {item.place for scene in scenes for item in scene.objects} == set(PLACES)


def test_splits_may_be_of_smaller_scenes():
    splits = Splits(seed=0, train=60, test=60, max_objects=2)
    for examples in (splits.train_examples(), splits.test_examples()):
        assert {len(example.scene.objects) for example in examples} == {1, 2}


def test_a_scene_comes_back_from_its_json():
    scene = Scene.of([Object("star", "red", "small", "center"), Object("cross", "blue", "large", "top right")])
    assert scene_from_json(scene_to_json(scene), "f:1") == scene


@pytest.mark.parametrize(
    "value",
    [
        [],
        "star",
        [{"shape": "star"}],
        [{"shape": "heart", "color": "red", "size": "small", "place": "center"}],
        [{"shape": "star", "color": "red", "size": "small", "place": "center"}] * 4,
    ],
)
def test_what_is_no_scene_is_refused_with_its_place(value):
    with pytest.raises(DataError, match=r"scenes\.tsv:7: expected"):
        scene_from_json(value, "scenes.tsv:7")


def test_no_test_scene_graph_is_in_the_train_split_and_test_scenes_differ():
    splits = Splits(seed=3, train=3000, test=200)
    test = {example.scene for example in splits.test_examples()}
    train = [example.scene for example in splits.train_examples()]
    assert len(test) == 200 and len(train) == 3000
    assert not test & set(train)


def test_splits_follow_from_their_seed():
    first, again, other = Splits(1, 5, 5), Splits(1, 5, 5), Splits(2, 5, 5)
    assert [e.scene for e in first.test_examples()] == [e.scene for e in again.test_examples()]
    assert [e.picture() for e in first.train_examples()] == [e.picture() for e in again.train_examples()]
    assert [e.scene for e in first.test_examples()] != [e.scene for e in other.test_examples()]
