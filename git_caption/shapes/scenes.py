"""Scenes of one to three objects, each with a shape, a colour, a size and a place."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from git_caption.errors import DataError

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "white")
SIZES = ("small", "large")
PLACES = (
    "top left",
    "top center",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom center",
    "bottom right",
)
MAX_OBJECTS = 3
ATTRIBUTES = ("shape", "color", "size", "place")
VALUES = {"shape": SHAPES, "color": COLORS, "size": SIZES, "place": PLACES}


@dataclass(frozen=True)
class Object:
    """One object; `attribute(name)` reads any of its four attributes."""

    shape: str
    color: str
    size: str
    place: str

    def attribute(self, name: str) -> str:
        """The value of `name`, one of `ATTRIBUTES`."""
        return str(getattr(self, name))


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, no two in one place: the scene graph, without how it is painted."""

    objects: tuple[Object, ...]

    @staticmethod
    def of(objects: list[Object] | tuple[Object, ...]) -> Scene:
        """A scene with `objects` put in reading order."""
        return Scene(tuple(sorted(objects, key=lambda item: PLACES.index(item.place))))


def scene_to_json(scene: Scene) -> list[dict[str, str]]:
    """The scene as the second column of a scene TSV holds it."""
    return [asdict(item) for item in scene.objects]


def scene_from_json(value: object, where: str) -> Scene:
    """The scene in a scene TSV's second column.

    Raises:
        DataError: if it is not a list of objects with the four known attributes; names `where` and the value.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_OBJECTS:
        raise DataError(f"{where}: expected a list of 1 to {MAX_OBJECTS} objects, found {value!r:.80}")
    objects = []
    for item in value:
        known = isinstance(item, dict) and set(item) == set(ATTRIBUTES)
        if not known or any(item[name] not in VALUES[name] for name in ATTRIBUTES):
            raise DataError(f"{where}: expected an object with {', '.join(ATTRIBUTES)}, found {item!r:.80}")
        objects.append(Object(**item))
    return Scene.of(objects)


def random_scene(rng: random.Random, most: int = MAX_OBJECTS) -> Scene:
    """One to `most` objects (equally likely) in different places, every attribute drawn evenly."""
    places = rng.sample(PLACES, rng.randint(1, most))
    return Scene.of([Object(rng.choice(SHAPES), rng.choice(COLORS), rng.choice(SIZES), place) for place in places])
