"""The batches of each training step, as a function of the step's number and the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from git_caption.errors import DataError
from git_caption.samples.collate import Batch, Collate
from git_caption.samples.feature_rows import EncodedSample
from git_caption.samples.mixed import MixedSamples, Samples, quotas
from git_caption.samples.sample import Failure
from git_caption.samples.training_data import TrainingSample


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

    failed: row number (0-based) → why; also of a row of which only captions are left out.
    """

    batches: list[Batch]
    failed: dict[int, Failure]


class TrainingSteps(Dataset[Step | Exception]):
    """Item `n` is step `n`: every epoch passes over the pictures in a new order, whole steps only.

    Of a mixture an epoch has as many pictures as all its data sets together, of each its share; where one ends it
    begins anew in another order, in the middle of an epoch too.
    The rows of a step, the texts drawn for each and what is changed in its picture do not depend on how the step is
    shared out.
    What is wrong with the whole data set is given in place of a step, to be raised where the steps are made: raised in
    a worker process, torch would wrap it in that process's traceback.
    Raises DataError if there are fewer pictures than a step takes.
    """

    def __init__(
        self,
        samples: Samples,
        collate: Collate,
        share: Share,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """weights: of the data sets of a mixture; None: each of its pictures once in an epoch."""
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
        self._mixture: tuple[tuple[int, int], ...] | None = None
        if weights is not None and isinstance(samples, MixedSamples):
            self._mixture = tuple(zip(samples.sizes, quotas(weights, self.per_epoch * share.rows), strict=True))
            for part, (_, quota) in zip(samples.parts, self._mixture, strict=True):
                if not quota:
                    raise DataError(
                        f"{part.data.kind} in {part.data.inputs[0]}: its weight is less than one of the "
                        f"{self.per_epoch * share.rows} pictures of an epoch: raise it, or leave this data set out"
                    )

    def __getitem__(self, step: int) -> Step | Exception:
        epoch, within = divmod(step, self.per_epoch)
        share = self.share
        drawn = self._drawn(epoch)[within * share.rows : (within + 1) * share.rows]
        own = drawn.reshape(share.accumulation, share.size, share.batch_size, 2)[:, share.rank]
        try:
            failed: dict[int, Failure] = {}
            return Step([self._batch(part.tolist(), failed) for part in own], failed)
        except Exception as error:
            return error

    def _drawn(self, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of an epoch and, for each, how often it has been drawn before: int64[n, 2]."""
        if self._mixture is not None:
            return _mixed(self._mixture, self.seed, epoch)
        rows = _order(len(self.samples), self.seed, epoch)
        return np.stack([rows, np.full_like(rows, epoch)], axis=1)

    def _batch(self, drawn: list[list[int]], failed: dict[int, Failure]) -> Batch:
        found: list[tuple[TrainingSample | EncodedSample, random.Random]] = []
        for row, turn in drawn:
            sample = self.samples.read(row, random.Random(f"pixels-{self.seed}-{turn}-{row}"))
            if isinstance(sample, Failure):
                failed[row] = sample
            else:
                if left_out := sample.texts.left_out:
                    failed[row] = Failure(sample.texts.key, "; ".join(left_out), ())
                found.append((sample, random.Random(f"texts-{self.seed}-{turn}-{row}")))
        return self.collate(found)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


@lru_cache(maxsize=2)
def _mixed(mixture: tuple[tuple[int, int], ...], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Rows and turns of an epoch of data sets of these sizes, of which each gives so many rows."""
    parts = []
    begin = 0
    for number, (size, quota) in enumerate(mixture):
        turns, places = np.divmod(np.arange(epoch * quota, (epoch + 1) * quota), size)
        orders = {turn: np.random.default_rng([seed, turn, number]).permutation(size) for turn in np.unique(turns)}
        rows = [begin + orders[turn][place] for turn, place in zip(turns, places, strict=True)]
        parts.append(np.stack([np.array(rows), turns], axis=1))
        begin += size
    return np.random.default_rng([seed, epoch]).permutation(np.concatenate(parts))
