"""The batches of a validation set: the same pictures and texts whenever they are read."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from git_caption.samples.collate import Batch, Collate
from git_caption.samples.mixed import Samples
from git_caption.samples.sample import Failure
from git_caption.samples.steps import Share
from git_caption.tsv.rows import Question


@dataclass(frozen=True, eq=False)
class ValidationBatch:
    """A batch, which may have no picture left.

    places: of its pictures among all that are used, 0-based. references: the captions of each. prompts: what these
    follow. questions: those of each, all of them. failed: the rows that could not be read.
    """

    batch: Batch
    places: list[int]
    references: list[tuple[str, ...]]
    prompts: list[str]
    questions: list[tuple[Question, ...]]
    failed: list[Failure]


class ValidationBatches(Dataset[ValidationBatch | Exception]):
    """The batches of one process; what is wrong with the whole data set is given in place of one, to be raised.

    The pictures are chosen and ordered by the seed, so that neighbours have nothing in common, and the texts drawn.
    """

    def __init__(
        self,
        samples: Samples,
        collate: Collate,
        share: Share,
        seed: int,
        most: int | None,
    ) -> None:
        """`most`: pictures that are used; None is all. Batches are of like size, of two at least where it can be."""
        self.samples = samples
        self.collate = collate
        self.seed = seed
        self.rows = np.random.default_rng(seed).permutation(len(samples))[:most]
        own = np.arange(len(self.rows))[share.rank :: share.size]
        self.parts = np.array_split(own, -(-len(own) // max(2, share.batch_size))) if len(own) else []

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> ValidationBatch | Exception:
        if number >= len(self):
            raise IndexError(number)
        try:
            return self._batch(self.parts[number].tolist())
        except Exception as error:
            return error

    def _batch(self, places: list[int]) -> ValidationBatch:
        found, failed = [], []
        for place in places:
            sample = self.samples.read(int(self.rows[place]))
            if isinstance(sample, Failure):
                failed.append(sample)
            else:
                found.append((place, sample))
        drawn = [(sample, random.Random(f"validation-{self.seed}-{self.rows[place]}")) for place, sample in found]
        references = [sample.texts.captions for _, sample in found]
        prompts = [self.collate.caption_prompt(sample.texts) for _, sample in found]
        questions = [sample.texts.questions for _, sample in found]
        places = [place for place, _ in found]
        return ValidationBatch(self.collate(drawn), places, references, prompts, questions, failed)
