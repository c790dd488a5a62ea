"""The batches of each training step, as a function of the step's number and the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from git_caption.errors import DataError
from git_caption.samples.collate import Batch, Collate
from git_caption.samples.feature_rows import EncodedSample, EncodedSamples, TextSamples
from git_caption.samples.sample import Failure
from git_caption.samples.training_data import TrainingSample, TrainingSamples


@dataclass(frozen=True)
class Share:
    """How a step's rows are shared out.

    `size` processes, of which this is number `rank`, take `accumulation` batches of `batch_size` pictures each.
    """

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    size: int = 1

    @property
    def rows(self) -> int:
        """The pictures of a step, of all processes."""
        return self.batch_size * self.accumulation * self.size


@dataclass(frozen=True, eq=False)
class Step:
    """What one process computes in a step: batches, of which one may have no picture left, and the rows that failed.

    failed: row number (0-based) → why.
    """

    batches: list[Batch]
    failed: dict[int, Failure]


class TrainingSteps(Dataset[Step | Exception]):
    """Item `n` is step `n`: every epoch passes over the pictures in a new order, whole steps only.

    The rows of a step, the texts drawn for each and what is changed in its picture do not depend on how the step is
    shared out.
    What is wrong with the whole data set is given in place of a step, to be raised where the steps are made: raised in
    a worker process, torch would wrap it in that process's traceback.
    Raises DataError if there are fewer pictures than a step takes.
    """

    def __init__(
        self, samples: TrainingSamples | EncodedSamples | TextSamples, collate: Collate, share: Share, seed: int
    ) -> None:
        self.samples = samples
        self.collate = collate
        self.share = share
        self.seed = seed
        self.per_epoch = len(samples) // share.rows
        if self.per_epoch == 0:
            raise DataError(
                f"{samples.data.kind}: {len(samples)} pictures do not fill one step of {share.rows} (batches of "
                f"{share.batch_size} x accumulation {share.accumulation} x processes {share.size}): lower --bs"
            )

    def __getitem__(self, step: int) -> Step | Exception:
        epoch, within = divmod(step, self.per_epoch)
        share = self.share
        rows = _order(len(self.samples), self.seed, epoch)[within * share.rows : (within + 1) * share.rows]
        own = rows.reshape(share.accumulation, share.size, share.batch_size)[:, share.rank]
        try:
            failed: dict[int, Failure] = {}
            return Step([self._batch(part.tolist(), epoch, failed) for part in own], failed)
        except Exception as error:
            return error

    def _batch(self, rows: list[int], epoch: int, failed: dict[int, Failure]) -> Batch:
        found: list[tuple[TrainingSample | EncodedSample, random.Random]] = []
        for row in rows:
            sample = self.samples.read(row, random.Random(f"pixels-{self.seed}-{epoch}-{row}"))
            if isinstance(sample, Failure):
                failed[row] = sample
            else:
                found.append((sample, random.Random(f"texts-{self.seed}-{epoch}-{row}")))
        return self.collate(found)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
