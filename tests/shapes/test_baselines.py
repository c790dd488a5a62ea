import random
from itertools import product

from git_caption.shapes.baselines import best_constant_answers, best_constant_caption
from git_caption.shapes.parser import attribute_accuracy, parse
from git_caption.shapes.questions import Asked
from git_caption.shapes.scenes import COLORS, PLACES, SHAPES, SIZES, Object, Scene, random_scene


def test_the_best_constant_caption_beats_captions_of_one_object():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(60)]
    best = best_constant_caption(scenes)
    mean = sum(attribute_accuracy(best, scene) for scene in scenes) / len(scenes)
    for shape, color, size, place in rng.sample(list(product(SHAPES, COLORS, SIZES, PLACES)), 60):
        caption = f"a {size} {color} {shape} in the {place}."
        assert mean >= sum(attribute_accuracy(caption, scene) for scene in scenes) / len(scenes), caption


def test_where_all_scenes_are_one_the_best_constant_caption_states_it():
    scene = Scene.of([Object("star", "white", "large", "bottom left"), Object("cross", "green", "small", "top center")])
    assert parse(best_constant_caption([scene] * 3)) == scene.objects


def test_the_best_constant_answer_of_a_template_is_its_most_frequent():
    asked = [Asked("what color is the star?", "red"), Asked("what color is the cross?", "blue")]
    asked += [Asked("what color is the circle?", "blue"), Asked("how many objects are there?", "2")]
    assert best_constant_answers(asked) == {"what color is the <shape>?": "blue", "how many objects are there?": "2"}
