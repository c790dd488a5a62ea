"""Scene → five paraphrased captions, each stating every attribute of every object."""

from __future__ import annotations

from git_caption.shapes.scenes import Object, Scene

COUNT_WORDS = {1: "one object", 2: "two objects", 3: "three objects"}


def captions(scene: Scene) -> list[str]:
    """The five captions of a scene, always in the same order of forms (see `parser.FORMS`)."""
    plain = _listing([f"a {o.size} {o.color} {o.shape} in the {o.place}" for o in scene.objects])
    relative = _listing([f"a {o.shape} in the {o.place} that is {o.size} and {o.color}" for o in scene.objects])
    bare = "; ".join(f"{o.place}: {o.size} {o.color} {o.shape}" for o in scene.objects)
    return [
        f"{plain}.",
        f"there is {plain}.",
        f"the picture shows {relative}.",
        f"{bare}.",
        f"{COUNT_WORDS[len(scene.objects)]}: {_listing([_apposition(o) for o in scene.objects])}.",
    ]


def _apposition(item: Object) -> str:
    return f"a {item.size} {item.shape} in {item.color} at the {item.place}"


def _listing(phrases: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
