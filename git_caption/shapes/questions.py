"""Scene → questions with their true answers; questions of one wording form a template."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from git_caption.shapes.scenes import ATTRIBUTES, VALUES, Object, Scene

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
        kind = rng.choice((_count, _count, _color, _shape, _size, _place, _exists, _exists))
        made = kind(scene, rng)
        if made is not None:
            asked.setdefault(made.question, made)
    return list(asked.values())


def _count(scene: Scene, rng: random.Random) -> Asked:
    kind = rng.choice(("all", "color", "shape"))
    if kind == "all":
        return Asked("how many objects are there?", str(len(scene.objects)))
    value = _present_or_any(scene, kind, rng)
    noun = f"{value} objects" if kind == "color" else f"{_plural(value)}"
    return Asked(f"how many {noun} are there?", str(sum(o.attribute(kind) == value for o in scene.objects)))


def _plural(shape: str) -> str:
    return f"{shape} shapes"


def _present_or_any(scene: Scene, attribute: str, rng: random.Random) -> str:
    """Mostly a value the scene holds, so that the count is not nearly always zero."""
    if rng.random() < 0.7:
        return rng.choice(scene.objects).attribute(attribute)
    return rng.choice(VALUES[attribute])


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
    """Yes and no equally likely; a no is a true object with one of its two stated attributes changed."""
    item = rng.choice(scene.objects)
    first, second = rng.choice((("color", "shape"), ("size", "shape"), ("shape", "place"), ("color", "place")))
    values = {name: item.attribute(name) for name in ATTRIBUTES}
    if rng.random() < 0.5:
        name = rng.choice((first, second))
        values[name] = rng.choice([value for value in VALUES[name] if value != values[name]])
    found = any(o.attribute(first) == values[first] and o.attribute(second) == values[second] for o in scene.objects)
    if second == "shape":
        question = f"is there any {values[first]} {values['shape']}?"
    else:
        noun = f"any {values['shape']}" if first == "shape" else f"something {values['color']}"
        question = f"is there {noun} in the {values['place']}?"
    return Asked(question, "yes" if found else "no")
