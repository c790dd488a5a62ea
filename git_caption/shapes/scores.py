"""Scores of captions and answers of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from git_caption.shapes.parser import attribute_accuracy
from git_caption.shapes.questions import Asked
from git_caption.shapes.scenes import Scene


def mean_attribute_accuracy(captions: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Mean over scenes of the share of attributes right, in 0..1."""
    pairs = zip(captions, scenes, strict=True)
    return sum(attribute_accuracy(caption, scene) for caption, scene in pairs) / len(scenes)


def vqa_accuracy(answers: Mapping[int | str, str], asked: Mapping[int | str, Asked]) -> float:
    """The share of questions whose answer is the scene's, letter for letter, in 0..1; by question id."""
    return sum(answers[number].strip() == item.answer for number, item in asked.items()) / len(asked)
