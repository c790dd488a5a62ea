"""The batch of each training step, as a function of the step's number and the seed alone."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from git_caption.errors import DataError
from git_caption.samples.collate import Batch, Collate
from git_caption.samples.training_tsv import TrainingTsv


class TrainingSteps(Dataset[Batch | DataError | OSError]):
    """Item `n` is the batch of step `n`: every epoch passes over the pictures in a new order, whole batches only.

    What is wrong with a row of the batch is given in its place, to be raised where the steps are made: raised in a
    worker process, torch would wrap it in that process's traceback.
    Raises DataError if there are fewer pictures than a batch takes.
    """

    def __init__(self, samples: TrainingTsv, collate: Collate, batch_size: int, seed: int) -> None:
        self.samples = samples
        self.collate = collate
        self.batch_size = batch_size
        self.seed = seed
        self.per_epoch = len(samples) // batch_size
        if self.per_epoch == 0:
            raise DataError(
                f"{samples.images.path}: {len(samples)} pictures do not fill one batch of {batch_size}: lower --bs"
            )

    def __getitem__(self, step: int) -> Batch | DataError | OSError:
        epoch, within = divmod(step, self.per_epoch)
        rows = _order(len(self.samples), self.seed, epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        rng = random.Random(f"texts-{self.seed}-{step}")
        try:
            return self.collate([self.samples[int(row)] for row in rows], rng)
        except (DataError, OSError) as error:
            return error


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
