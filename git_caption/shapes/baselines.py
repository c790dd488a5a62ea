"""What can be scored without looking: the best constant caption, and the best constant answer to each template."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from git_caption.shapes.captions import captions
from git_caption.shapes.questions import Asked, template_of
from git_caption.shapes.scenes import ATTRIBUTES, MAX_OBJECTS, VALUES, Object, Scene

ENOUGH = 4_000  # scenes: more move the score by less than a tenth of a point

Codes = npt.NDArray[np.int64]  # [..., attribute]


def best_constant_caption(scenes: Sequence[Scene]) -> str:
    """The caption whose attribute accuracy over the first 4,000 `scenes` is the highest that coordinate ascent finds.

    One ascent for each number of objects, an attribute at a time, until no single change helps.
    """
    scenes = scenes[:ENOUGH]
    groups = [
        np.array([[_codes(item) for item in scene.objects] for scene in scenes if len(scene.objects) == count])
        for count in range(1, MAX_OBJECTS + 1)
    ]
    found = [_ascend(count, [group for group in groups if len(group)]) for count in range(1, MAX_OBJECTS + 1)]
    _, best = max(found, key=lambda pair: pair[0])
    objects = [Object(*(VALUES[name][code] for name, code in zip(ATTRIBUTES, row, strict=True))) for row in best]
    return captions(Scene.of(objects))[0]


def best_constant_answers(asked: Iterable[Asked]) -> dict[str, str]:
    """For each question template its most frequent answer; the first seen where several are."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in asked:
        counts[template_of(item.question)][item.answer] += 1
    return {template: counter.most_common(1)[0][0] for template, counter in counts.items()}


def _codes(item: Object) -> list[int]:
    return [VALUES[name].index(item.attribute(name)) for name in ATTRIBUTES]


def _ascend(count: int, groups: list[Codes]) -> tuple[float, Codes]:
    places = ATTRIBUTES.index("place")
    stated = np.zeros((count, len(ATTRIBUTES)), dtype=np.int64)
    stated[:, places] = np.arange(count)
    best, improved = _accuracy(stated, groups), True
    while improved:
        improved = False
        for row in range(count):
            for column, name in enumerate(ATTRIBUTES):
                for value in range(len(VALUES[name])):
                    trial = stated.copy()
                    trial[row, column] = value
                    if len(set(trial[:, places].tolist())) < count:
                        continue
                    score = _accuracy(trial, groups)
                    if score > best + 1e-12:
                        best, stated, improved = score, trial, True
    return best, stated


def _accuracy(stated: Codes, groups: list[Codes]) -> float:
    """Mean over all scenes of the attributes right under the best matching, as `parser.objects_right`."""
    total = 0.0
    for group in groups:
        matches = (stated[None, :, None, :] == group[:, None, :, :]).sum(-1)  # [scene, stated, true]
        few, many = sorted(matches.shape[1:])
        if few < len(stated):
            matches = matches.swapaxes(1, 2)  # [scene, few, many]
        ways = permutations(range(many), few)
        right = np.max([matches[:, range(few), way].sum(1) for way in ways], axis=0)
        total += float(right.sum()) / (len(ATTRIBUTES) * many)
    return total / sum(len(group) for group in groups)
