import random

from git_caption.shapes.questions import questions, template_of
from git_caption.shapes.scenes import Object, Scene, random_scene

SCENE = Scene.of(
    [
        Object("circle", "red", "small", "top left"),
        Object("star", "red", "large", "center"),
        Object("star", "blue", "small", "bottom right"),
    ]
)
TRUE = {  # answered by hand
    "how many objects are there?": "3",
    "what color is the circle?": "red",
    "what color is the object in the center?": "red",
    "what shape is the blue object?": "star",
    "what shape is the object in the bottom right?": "star",
    "what size is the blue object?": "small",
    "what size is the circle?": "small",
    "where is the blue object?": "bottom right",
    "where is the circle?": "top left",
    "is anything red?": "yes",
    "is anything green?": "no",
    "is there any star?": "yes",
    "is there any square?": "no",
    "is anything in the center?": "yes",
    "is anything in the top right?": "no",
}


def _asked(scene: Scene) -> dict[str, str]:
    rng = random.Random(0)
    return {item.question: item.answer for _ in range(300) for item in questions(scene, 4, rng)}


def test_answers_are_the_scenes():
    asked = _asked(SCENE)
    assert {question: asked[question] for question in TRUE} == TRUE


def test_an_attribute_is_asked_only_of_an_object_that_is_singled_out():
    asked = _asked(SCENE)
    assert not {"what color is the star?", "what shape is the red object?", "where is the star?"} & set(asked)


def test_as_many_different_questions_as_asked_for():
    rng = random.Random(4)
    for _ in range(200):
        made = questions(random_scene(rng), 4, rng)
        assert len({item.question for item in made}) == len(made) == 4


def test_a_template_is_the_wording_without_its_attribute_words():
    assert template_of("is anything red?") == "is anything <color>?"
    assert template_of("what size is the object in the bottom right?") == "what size is the object in the <place>?"
    assert template_of("how many objects are there?") == "how many objects are there?"


def test_yes_and_no_come_about_equally_often():
    rng = random.Random(2)
    answers = [a.answer for _ in range(3000) for a in questions(random_scene(rng), 4, rng) if a.answer in ("yes", "no")]
    assert 0.45 < answers.count("yes") / len(answers) < 0.58
