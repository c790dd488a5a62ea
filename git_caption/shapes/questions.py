"""Scene → questions with their true answers; questions of one wording form a template."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from git_caption.shapes.scenes import VALUES, Object, Scene

_SLOT_WORD = re.compile(
    "|".join(
        rf"(?P<{name}>\b(?:{'|'.join(sorted(values, key=len, reverse=True))})\b)" for name, values in VALUES.items()
    )
)


@dataclass(frozen=True)
class Asked:
    """A question about one scene and the answer the scene gives."""

    question: str
    answer: str


def template_of(question: str) -> str:
    """The question with its attribute words replaced by their kind: `what color is the <shape>?`."""
    return _SLOT_WORD.sub(lambda match: f"<{match.lastgroup}>", question)


def questions(scene: Scene, count: int, rng: random.Random) -> list[Asked]:
    """`count` different questions about `scene`; every kind is equally likely to be asked."""
    asked: dict[str, Asked] = {}
    while len(asked) < count:
        kind = rng.choice((_count, _color, _shape, _size, _place, _exists))
        made = kind(scene, rng)
        if made is not None:
            asked.setdefault(made.question, made)
    return list(asked.values())


def _count(scene: Scene, rng: random.Random) -> Asked:
    return Asked("how many objects are there?", str(len(scene.objects)))


def _color(scene: Scene, rng: random.Random) -> Asked | None:
    return _attribute(scene, "color", "what color is {}?", ("shape", "place"), rng)


def _shape(scene: Scene, rng: random.Random) -> Asked | None:
    return _attribute(scene, "shape", "what shape is {}?", ("color", "place"), rng)


def _size(scene: Scene, rng: random.Random) -> Asked | None:
    return _attribute(scene, "size", "what size is {}?", ("color", "shape", "place"), rng)


def _place(scene: Scene, rng: random.Random) -> Asked | None:
    return _attribute(scene, "place", "where is {}?", ("color", "shape"), rng)


def _attribute(scene: Scene, asked: str, wording: str, by: tuple[str, ...], rng: random.Random) -> Asked | None:
    """Ask for one attribute of the object that a second attribute singles out; None if that is not unique."""
    item, key = rng.choice(scene.objects), rng.choice(by)
    if sum(o.attribute(key) == item.attribute(key) for o in scene.objects) > 1:
        return None
    return Asked(wording.format(_named_by(item, key)), item.attribute(asked))


def _named_by(item: Object, key: str) -> str:
    return {
        "shape": f"the {item.shape}",
        "color": f"the {item.color} object",
        "place": f"the object in the {item.place}",
    }[key]


def _exists(scene: Scene, rng: random.Random) -> Asked:
    """Ask for one attribute's value, which some object has or none, equally likely."""
    key = rng.choice(("color", "shape", "place"))
    present = {item.attribute(key) for item in scene.objects}
    found = rng.random() < 0.5
    value = rng.choice([value for value in VALUES[key] if (value in present) == found])
    wording = {"color": "is anything {}?", "shape": "is there any {}?", "place": "is anything in the {}?"}[key]
    return Asked(wording.format(value), "yes" if found else "no")
