"""The strict caption parser that scores captions of shapes: what it cannot parse is wrong."""

from __future__ import annotations

import re
from itertools import permutations

from git_caption.shapes.captions import COUNT_WORDS
from git_caption.shapes.scenes import ATTRIBUTES, COLORS, PLACES, SHAPES, SIZES, Object, Scene


def _choice(name: str, values: tuple[str, ...]) -> str:
    return f"(?P<{name}>{'|'.join(sorted(values, key=len, reverse=True))})"


_SHAPE, _COLOR = _choice("shape", SHAPES), _choice("color", COLORS)
_SIZE, _PLACE = _choice("size", SIZES), _choice("place", PLACES)
_COUNTS = {f"{words}: ": number for number, words in COUNT_WORDS.items()}
_LISTED = re.compile(r", | and (?=a )")

# opener, how phrases are separated, one phrase. "that is small and red" never splits: `and` splits before `a` only.
FORMS: tuple[tuple[str, re.Pattern[str], re.Pattern[str]], ...] = (
    ("", _LISTED, re.compile(f"a {_SIZE} {_COLOR} {_SHAPE} in the {_PLACE}")),
    ("there is ", _LISTED, re.compile(f"a {_SIZE} {_COLOR} {_SHAPE} in the {_PLACE}")),
    ("the picture shows ", _LISTED, re.compile(f"a {_SHAPE} in the {_PLACE} that is {_SIZE} and {_COLOR}")),
    ("", re.compile("; "), re.compile(f"{_PLACE}: {_SIZE} {_COLOR} {_SHAPE}")),
    *((count, _LISTED, re.compile(f"a {_SIZE} {_SHAPE} in {_COLOR} at the {_PLACE}")) for count in _COUNTS),
)


def parse(caption: str) -> tuple[Object, ...] | None:
    """The objects a caption states, or None where it follows none of the five forms to the letter."""
    if not caption.endswith("."):
        return None
    for opener, separator, phrase in FORMS:
        if not caption.startswith(opener):
            continue
        phrases = separator.split(caption[len(opener) : -1])
        matches = [phrase.fullmatch(text) for text in phrases]
        if all(matches) and len(phrases) == _COUNTS.get(opener, len(phrases)):
            return tuple(Object(**match.groupdict()) for match in matches if match)
    return None


def attribute_accuracy(caption: str, scene: Scene) -> float:
    """The share of attributes that `caption` gets right, in 0..1.

    Objects are matched one to one, in the way best for the score; missing or extra objects count all their
    attributes as wrong, and so does a caption that cannot be parsed.
    """
    stated = parse(caption)
    return 0.0 if stated is None else objects_right(stated, scene.objects)


def objects_right(stated: tuple[Object, ...], true: tuple[Object, ...]) -> float:
    """Attributes right under the best one-to-one matching, over the attributes of the longer list, in 0..1."""
    short, long = sorted((stated, true), key=len)
    if len(long) > 6:  # far beyond any scene: all matchings would be too many, and most objects are extra anyway
        return 0.0
    best = max(
        sum(a.attribute(name) == b.attribute(name) for a, b in zip(short, chosen, strict=True) for name in ATTRIBUTES)
        for chosen in permutations(long, len(short))
    )
    return best / (len(ATTRIBUTES) * len(long))
