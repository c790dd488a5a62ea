"""What a run does on pictures that it is not trained on: losses, captions and their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from git_caption.captioner.captioner import Captioner, Features, Identity
from git_caption.errors import DataError
from git_caption.metrics import coco, vqa
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.pipeline.workers import signals_held
from git_caption.samples.validation_batches import ValidationBatch, ValidationBatches
from git_caption.training.best import Best
from git_caption.training.objectives import Objective
from git_caption.training.seen import seen
from git_caption.training.sharding import in_step
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
class Answered:
    """What was answered to a question about a picture, in one line, and what people have answered."""

    key: str
    question: str
    answer: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Validated:
    """What a validation found. None: not to be computed here, or not of this objective.

    loss: per target token, or per picture where the objective is contrastive. shuffled_loss: of the same texts with
    other pictures. distinct: different captions / captions. accuracy: VQA's, of the answers. shown, answers: captions
    of the same few pictures always, and a question about each.
    """

    loss: float
    shuffled_loss: float | None = None
    cider: float | None = None
    bleu_4: float | None = None
    distinct: float | None = None
    accuracy: float | None = None
    shown: tuple[Captioned, ...] = ()
    answers: tuple[Answered, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"loss {self.loss:.4f}"
        if self.shuffled_loss is not None:
            said += f" ({self.shuffled_loss:.4f} with shuffled pictures)"
        if self.cider is not None and self.bleu_4 is not None:
            said += f", CIDEr {self.cider:.3f}, BLEU-4 {self.bleu_4:.3f}"
        if self.distinct is not None:
            said += f", {self.distinct:.0%} of captions distinct"
        return said + (f", VQA accuracy {self.accuracy:.3f}" if self.accuracy is not None else "")


@dataclass(frozen=True)
class Share:
    """What one process has found.

    losses, counts: sums of what the loss is taken over, and how many: with the own pictures, and with shuffled ones.
    captioned: by place of the picture in the validation set. failed: why pictures could not be read. answered: by
    place of the picture, and of the question among those about it.
    """

    losses: list[float]
    counts: list[int]
    captioned: dict[int, Captioned]
    failed: list[str]
    answered: dict[tuple[int, int], Answered] = field(default_factory=dict)


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
            self.captioning = captioner.decoding(greedy, "caption")
            self.answering = captioner.decoding(greedy, "answer")
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
        with torch.no_grad(), in_step(self.objective):
            share = self._share()
        self.objective.train()
        if self.accelerator.num_processes > 1:
            shares = gather_object([share])
            told = [together(shares) if self.accelerator.is_main_process else None]
            found = broadcast_object_list(told)[0]
        else:
            found = together([share])
        by = self.params.best_by
        value = {"loss": -found.loss, "cider": found.cider, "accuracy": found.accuracy}[by]
        if value is None:
            raise DataError(f"'best_by': {by} cannot be had of the validation set, which has no text to compare with")
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
        if self.params.dataset.captions_per_image:
            self._caption(self.captioner, given, item, share)
        if self.params.dataset.questions_per_image:
            self._answer(self.captioner, given, item, share)

    def _caption(self, captioner: Captioner, features: Features, item: ValidationBatch, share: Share) -> None:
        """Caption the pictures that people have captioned."""
        numbers = [number for number, references in enumerate(item.references) if references]
        if not numbers:
            return
        identities = [Identity(item.batch.keys[number]) for number in numbers]
        prompts = [item.prompts[number] for number in numbers]
        texts = captioner.generate(features.select(torch.tensor(numbers)), prompts, self.captioning, identities)
        for number, identity, text in zip(numbers, identities, texts, strict=True):
            caption = Captioned(identity.key, " ".join(text[0].text.split()), item.references[number])
            share.captioned[item.places[number]] = caption

    def _answer(self, captioner: Captioner, features: Features, item: ValidationBatch, share: Share) -> None:
        """Answer all questions about the pictures, as many at once as a step has pictures."""
        asked = [(number, place) for number, own in enumerate(item.questions) for place in range(len(own))]
        most = self.params.optimisation.bs
        for begin in range(0, len(asked), most):
            part = asked[begin : begin + most]
            questions = [item.questions[number][place] for number, place in part]
            prompts = [captioner.question_prompt(question.question) for question in questions]
            numbers = [number for number, _ in part]
            identities = [
                Identity(item.batch.keys[number], question.question_id)
                for number, question in zip(numbers, questions, strict=True)
            ]
            texts = captioner.generate(features.select(torch.tensor(numbers)), prompts, self.answering, identities)
            for (number, place), question, text in zip(part, questions, texts, strict=True):
                share.answered[item.places[number], place] = Answered(
                    item.batch.keys[number], question.question, " ".join(text[0].text.split()), question.answers
                )


def together(shares: Sequence[Share]) -> Validated:
    """What all processes have found. Raises DataError where no picture could be read."""
    counts = [sum(share.counts[number] for share in shares) for number in (0, 1)]
    losses = [math.fsum(share.losses[number] for share in shares) for number in (0, 1)]
    failed = [reason for share in shares for reason in share.failed]
    if not counts[0]:
        why = (
            f"can be read; the first that could not be: {failed[0]}" if failed else "has a text of those that are drawn"
        )
        raise DataError(f"no picture of the validation set {why}")
    notes = [f"{len(failed)} pictures of the validation set cannot be read; the first: {failed[0]}"] if failed else []
    loss = losses[0] / counts[0]
    shuffled = losses[1] / counts[1] if counts[1] else None
    if shuffled is not None and not shuffled > loss * (1 + LEAST_RISE):
        notes.append(
            f"warning: with the pictures of other rows the loss is {shuffled:.4f}, hardly higher than with the own "
            f"ones ({loss:.4f}): the pictures do not reach the texts"
        )
    answered = dict(sorted((place, found) for share in shares for place, found in share.answered.items()))
    validated = Validated(
        loss,
        shuffled,
        accuracy=fmean(vqa.accuracy(found.answer, found.references) for found in answered.values())
        if answered
        else None,
        answers=tuple(islice((found for (_, number), found in answered.items() if number == 0), SHOWN)),
        notes=tuple(notes),
    )
    captioned = dict(sorted((place, found) for share in shares for place, found in share.captioned.items()))
    return with_scores(validated, list(captioned.values())) if captioned else validated


def with_scores(validated: Validated, captioned: Sequence[Captioned]) -> Validated:
    """The same with what the captions are worth."""
    notes = list(validated.notes)
    captions = {found.key: found.caption for found in captioned}
    references: dict[str, list[str]] = {}
    for found in captioned:  # a picture may have several rows
        references.setdefault(found.key, []).extend(found.references)
    different, told_apart = len(set(captions.values())), len({texts[0] for texts in references.values()})
    if told_apart > 1 and different <= max(1, LOW_DISTINCT * told_apart):
        notes.append(
            f"warning: only {different} different captions for {len(captions)} pictures: they hardly tell these apart"
        )
    scores = coco.score(captions, references, ("CIDEr", "Bleu"), tokenizer="python")
    return replace(
        validated,
        cider=scores.overall["CIDEr"],
        bleu_4=scores.overall["Bleu_4"],
        distinct=different / len(captions),
        shown=tuple(captioned[:SHOWN]),
        notes=(*notes, *scores.notes, *(f"no {name}: {why}" for name, why in scores.reasons.items() if name in NAMED)),
    )
