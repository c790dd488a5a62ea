"""The train and test splits: the same seed gives the same scenes, pictures, captions and questions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from git_caption.shapes.captions import captions
from git_caption.shapes.questions import Asked, questions
from git_caption.shapes.render import render, to_jpeg
from git_caption.shapes.scenes import MAX_OBJECTS, Scene, random_scene

QUESTIONS = 4  # asked about each scene


@dataclass(frozen=True)
class Example:
    """A scene of a split with its key; what is said and painted follows from the two."""

    key: str
    scene: Scene

    def picture(self) -> bytes:
        """The scene as a JPEG file."""
        return to_jpeg(render(self.scene, self.key))

    def captions(self) -> list[str]:
        """Its five captions."""
        return captions(self.scene)

    def questions(self) -> list[Asked]:
        """Questions about it, with their true answers."""
        return questions(self.scene, QUESTIONS, random.Random(f"shapes-questions-{self.key}"))


@dataclass(frozen=True)
class Splits:
    """`test` different scenes to test on and `train` to train on, of at most `max_objects` objects each.

    No test scene is a train scene.
    """

    seed: int
    train: int
    test: int
    max_objects: int = MAX_OBJECTS

    def test_examples(self) -> list[Example]:
        """The test split."""
        rng = random.Random(f"shapes-test-{self.seed}")
        seen: dict[Scene, None] = {}
        while len(seen) < self.test:
            seen.setdefault(random_scene(rng, self.max_objects))
        return [Example(f"shapes-test-{self.seed}-{number:05d}", scene) for number, scene in enumerate(seen)]

    def train_examples(self) -> Iterator[Example]:
        """The train split; a scene may come again, painted otherwise."""
        held_out = {example.scene for example in self.test_examples()}
        rng = random.Random(f"shapes-train-{self.seed}")
        number = 0
        while number < self.train:
            scene = random_scene(rng, self.max_objects)
            if scene not in held_out:
                yield Example(f"shapes-train-{self.seed}-{number:05d}", scene)
                number += 1
