"""What a run does on pictures that it is not trained on: losses, captions and their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from git_caption.captioner.captioner import Captioner, Features, Identity
from git_caption.errors import DataError
from git_caption.metrics import coco
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.pipeline.workers import signals_held
from git_caption.samples.validation_batches import ValidationBatch, ValidationBatches
from git_caption.training.best import Best
from git_caption.training.objectives import Objective
from git_caption.training.seen import seen
from git_caption.training.signals import leave_signals_to_the_main_process

SHOWN = 8  # pictures whose captions people can read, always the same ones
LOW_DISTINCT = 0.1  # of the different references: with fewer different captions they hardly tell pictures apart
NAMED = ("CIDEr", "Bleu_4")
LEAST_RISE = 1e-3  # of the loss, by shuffled pictures: where nothing looks at them there is noise


@dataclass(frozen=True)
class Captioned:
    """What was generated for a picture, in one line, and what people have said about it."""

    key: str
    caption: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Validated:
    """What a validation found. None: not to be computed here, or not of this objective.

    loss: per target token, or per picture where the objective is contrastive. shuffled_loss: of the same texts with
    other pictures. distinct: different captions / captions. shown: captions of the same few pictures always.
    """

    loss: float
    shuffled_loss: float | None = None
    cider: float | None = None
    bleu_4: float | None = None
    distinct: float | None = None
    shown: tuple[Captioned, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"loss {self.loss:.4f}"
        if self.shuffled_loss is not None:
            said += f" ({self.shuffled_loss:.4f} with shuffled pictures)"
        if self.cider is not None and self.bleu_4 is not None:
            said += f", CIDEr {self.cider:.3f}, BLEU-4 {self.bleu_4:.3f}"
        return said + (f", {self.distinct:.0%} of captions distinct" if self.distinct is not None else "")


@dataclass(frozen=True)
class Share:
    """What one process has found.

    losses, counts: sums of what the loss is taken over, and how many: with the own pictures, and with shuffled ones.
    captioned: by place of the picture in the validation set. failed: why pictures could not be read.
    """

    losses: list[float]
    counts: list[int]
    captioned: dict[int, Captioned]
    failed: list[str]


class Validation:
    """Validates an objective, all processes of a run together; draws on no random generator of the run's.

    Attributes:
        best: the best validation so far, by `best_by`.
    """

    def __init__(
        self,
        objective: Objective,
        batches: ValidationBatches,
        captioner: Captioner | None,
        params: TrainingParams,
        transform: TransformConfig,
        accelerator: Accelerator,
    ) -> None:
        """captioner: of the network that the objective trains; None where it makes no captions."""
        self.objective = objective
        self.captioner = captioner
        self.params = params
        self.transform = transform
        self.accelerator = accelerator
        self.best = Best()
        if captioner is not None:
            greedy = DecodingParams(temperature=0.0, num_captions=1, with_scores=False)
            self.decoding = captioner.decoding(greedy, "caption")
        workers = params.computing.num_workers
        self._loader: DataLoader[ValidationBatch | Exception] = DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_main_process,
            generator=torch.Generator(),  # of its own: it must not draw on the one that dropout draws from
        )

    def due(self, step: int, per_epoch: int, last: bool) -> bool:
        """Whether there is still to be a validation after this step."""
        return step > self.best.latest and (last or self.params.validation.falls_on(step, per_epoch))

    @property
    def over(self) -> bool:
        """Whether too many validations have followed the best one."""
        patience = self.params.validation.patience
        return patience is not None and self.best.stale >= patience

    def __call__(self, step: int) -> tuple[Validated, bool]:
        """Validate the weights of `step`: what was found, the same on each process, and whether it is the best so far.

        Raises:
            DataError: a picture that cannot be read, where `on_error` says so, or none that can be read.
        """
        self.objective.eval()
        with torch.no_grad():
            share = self._share()
        self.objective.train()
        if self.accelerator.num_processes > 1:
            shares = gather_object([share])
            told = [together(shares) if self.accelerator.is_main_process else None]
            found = broadcast_object_list(told)[0]
        else:
            found = together([share])
        value = -found.loss if self.params.validation.best_by == "loss" else found.cider
        assert value is not None, "checked before the run"
        return found, self.best.take(step, value, str(found))

    def state(self) -> dict[str, Any]:
        """What a run that goes on from here has to know."""
        return asdict(self.best)

    def restore(self, saved: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.best = Best(**saved)

    def close(self) -> None:
        """End the processes that read."""
        del self._loader

    def _share(self) -> Share:
        """Validate this process's batches."""
        share = Share([0.0, 0.0], [0, 0], {}, [])
        with signals_held():
            loader = iter(self._loader)
        for item in loader:
            if isinstance(item, Exception):
                raise item
            for failure in item.failed:
                if self.params.dataset.on_error == "raise":
                    raise DataError(f"{failure.reason} (key {failure.key!r})")
                share.failed.append(failure.reason)
            if item.places:
                with self.accelerator.autocast():
                    self._take(item, share)
        return share

    def _take(self, item: ValidationBatch, share: Share) -> None:
        """Add a batch: its features are computed once, for both losses and the captions."""
        given = seen(item.batch, self.transform, self.accelerator.device)
        if self.captioner is not None and isinstance(given, Tensor):
            given = self.captioner.network.encode(given)
        count = self.objective.count(item.batch)
        share.losses[0] += float(self.objective(given, item.batch))
        share.counts[0] += count
        if self.captioner is None or not isinstance(given, Features):
            return
        if len(item.places) > 1:
            others = torch.arange(len(item.places), device=given.values.device).roll(1)
            share.losses[1] += float(self.objective(given.select(others), item.batch))
            share.counts[1] += count
        identities = [Identity(key) for key in item.batch.keys]
        texts = self.captioner.generate(given, item.prompts, self.decoding, identities)
        for place, key, text, references in zip(item.places, item.batch.keys, texts, item.references, strict=True):
            share.captioned[place] = Captioned(key, " ".join(text[0].text.split()), references)


def together(shares: Sequence[Share]) -> Validated:
    """What all processes have found. Raises DataError where no picture could be read."""
    counts = [sum(share.counts[number] for share in shares) for number in (0, 1)]
    losses = [math.fsum(share.losses[number] for share in shares) for number in (0, 1)]
    failed = [reason for share in shares for reason in share.failed]
    if not counts[0]:
        raise DataError(f"no picture of the validation set can be read; the first that could not be: {failed[0]}")
    notes = [f"{len(failed)} pictures of the validation set cannot be read; the first: {failed[0]}"] if failed else []
    loss = losses[0] / counts[0]
    captioned = dict(sorted((place, found) for share in shares for place, found in share.captioned.items()))
    if not captioned:
        return Validated(loss, notes=tuple(notes))
    shuffled = losses[1] / counts[1] if counts[1] else None
    if shuffled is not None and not shuffled > loss * (1 + LEAST_RISE):
        notes.append(
            f"warning: with the pictures of other rows the loss is {shuffled:.4f}, hardly higher than with the own "
            f"ones ({loss:.4f}): the pictures do not reach the texts"
        )
    captions = {found.key: found.caption for found in captioned.values()}
    references: dict[str, list[str]] = {}
    for found in captioned.values():  # a picture may have several rows
        references.setdefault(found.key, []).extend(found.references)
    different, told_apart = len(set(captions.values())), len({texts[0] for texts in references.values()})
    if told_apart > 1 and different <= max(1, LOW_DISTINCT * told_apart):
        notes.append(
            f"warning: only {different} different captions for {len(captions)} pictures: they hardly tell these apart"
        )
    scores = coco.score(captions, references, ("CIDEr", "Bleu"), tokenizer="python")
    return Validated(
        loss,
        shuffled,
        scores.overall["CIDEr"],
        scores.overall["Bleu_4"],
        different / len(captions),
        tuple(islice(captioned.values(), SHOWN)),
        (*notes, *scores.notes, *(f"no {name}: {why}" for name, why in scores.reasons.items() if name in NAMED)),
    )
