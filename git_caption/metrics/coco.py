"""The captioning metrics of COCO, as pycocoevalcap computes them (Chen et al. 2015, arXiv:1504.00325).

Its own scorers do the computing. What differs is around them: every metric stands alone, so that one that cannot be
computed leaves the others be; without Java the captions are tokenized by `git_caption.metrics.ptb`; ids are texts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from git_caption.errors import DataError, JobFailed, UsageError
from git_caption.metrics import java, ptb

Metric = Literal["Bleu", "METEOR", "ROUGE_L", "CIDEr", "SPICE"]
METRICS: tuple[Metric, ...] = ("Bleu", "METEOR", "ROUGE_L", "CIDEr")
NAMES: dict[Metric, tuple[str, ...]] = {
    "Bleu": ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"),
    "METEOR": ("METEOR",),
    "ROUGE_L": ("ROUGE_L",),
    "CIDEr": ("CIDEr",),
    "SPICE": ("SPICE",),
}
TIMEOUT = 3600.0

Tokenized = dict[str, list[str]]
Result = list[tuple[float, Sequence[Any]]]  # for each name of a metric: over all images, and of each


@dataclass(frozen=True)
class Scores:
    """What `score` found.

    `overall` has None for a metric that could not be computed, and `reasons` says why; `per_image` leaves it out. Of
    `references` images with references, `images` had a candidate. `notes` are lines that a reader should see.
    """

    overall: dict[str, float | None]
    per_image: dict[str, dict[str, Any]]
    reasons: dict[str, str]
    tokenizer: Literal["java", "python"]
    images: int
    references: int
    notes: list[str] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """The share of the images with references that were scored."""
        return self.images / self.references


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Iterable[Metric] = METRICS,
    tokenizer: Literal["auto", "java", "python"] = "auto",
    timeout: float = TIMEOUT,
) -> Scores:
    """Score one caption an image against its references; images without a candidate are left out.

    Args:
        candidates: caption by image id.
        references: captions by image id.
        metrics: which to compute.
        tokenizer: 'auto' takes Java's where Java runs, else our own, which gives the same words.
        timeout: seconds for each Java program.

    Raises:
        DataError: no candidates, or some without any reference.
        JobFailed: tokenizer 'java' cannot run.
        UsageError: a metric is unknown.
    """
    asked = list(metrics)
    if strange := [metric for metric in asked if metric not in NAMES]:
        raise UsageError(f"unknown metric {strange[0]!r}; known: {', '.join(NAMES)}")
    wanted = [metric for metric in NAMES if metric in asked]
    known = {image: texts for image, texts in references.items() if texts}
    images = _matched(candidates, known)
    notes: list[str] = []
    counts = [len(known[image]) for image in images]
    texts = [text for image in images for text in known[image]] + [candidates[image] for image in images]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(NAMES)))
        # METEOR takes long to load, which it can do while the captions are tokenized.
        meteor = _start_meteor(timeout, stack) if "METEOR" in wanted else ""
        words, used = _tokenize(texts, tokenizer, timeout, notes)
        remaining = iter(words)
        gts = {image: [next(remaining) for _ in range(count)] for image, count in zip(images, counts, strict=True)}
        res = {image: [next(remaining)] for image in images}
        computations: dict[Metric, Callable[[], Result]] = {
            "Bleu": lambda: _bleu(gts, res),
            "METEOR": lambda: _meteor(meteor, gts, res),
            "ROUGE_L": lambda: _scorer("rouge.rouge", "Rouge", gts, res),
            "CIDEr": lambda: _scorer("cider.cider", "Cider", gts, res),
            "SPICE": lambda: _spice(gts, res, timeout),
        }
        running = {metric: pool.submit(_alone, computations[metric]) for metric in wanted}
        found = {metric: future.result() for metric, future in running.items()}
    if "CIDEr" in wanted and len(images) == 1:
        notes.append("CIDEr weighs words by how few of the scored images have them: over one image it is always 0")
    return _collected(found, images, used, len(known), notes)


def _matched(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids to score, in the order of the references."""
    if not candidates:
        raise DataError("there are no candidate captions to score")
    unknown = [image for image in candidates if image not in references]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(candidates)} captioned images have no reference: {_examples(unknown)}; "
            f"the references have {_examples(references)}: give the references of the same split"
        )
    return [image for image in references if image in candidates]


def _examples(images: Iterable[str]) -> str:
    shown = list(images)
    return ", ".join(map(repr, shown[:3])) + (", ..." if len(shown) > 3 else "") or "none"


def _tokenize(
    captions: Sequence[str], tokenizer: str, timeout: float, notes: list[str]
) -> tuple[list[str], Literal["java", "python"]]:
    folded = [ptb.fold(caption) for caption in captions]
    if tokenizer != "python":
        try:
            lines = java.tokenize(folded, timeout)
        except java.Unavailable as reason:
            if tokenizer == "java":
                raise JobFailed(f"tokenizer 'java' cannot run: {reason}; 'python' gives the same words") from reason
            notes.append(f"captions were tokenized by our own tokenizer, not Java's ({reason})")
        else:
            return [ptb.without_punctuation(line.split(" ")) for line in lines], "java"
    return ptb.tokenize(folded), "python"


def _start_meteor(timeout: float, stack: ExitStack) -> java.Meteor | str:
    try:
        return stack.enter_context(java.Meteor(timeout))
    except java.Unavailable as reason:
        return str(reason)


def _alone(compute: Callable[[], Result]) -> Result | str:
    """The result of a metric, or the reason why there is none."""
    try:
        return compute()
    except java.Unavailable as reason:
        return str(reason)
    except ModuleNotFoundError as error:
        return f"needs {error.name}: pip install 'git-caption[metrics]'"
    except Exception as error:  # scorers that are not ours fail in ways of their own; the other metrics go on
        return f"failed: {type(error).__name__}: {error}".strip(" :")


def _bleu(gts: Tokenized, res: Tokenized) -> Result:
    scorer = importlib.import_module("pycocoevalcap.bleu.bleu").Bleu(4)
    overall, per_image = scorer.compute_score(gts, res, verbose=0)
    return list(zip(overall, per_image, strict=True))


def _scorer(module: str, name: str, gts: Tokenized, res: Tokenized) -> Result:
    scorer = getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)()
    return [scorer.compute_score(gts, res)]


def _meteor(meteor: java.Meteor | str, gts: Tokenized, res: Tokenized) -> Result:
    if isinstance(meteor, str):
        raise java.Unavailable(meteor)
    return [meteor.scores([texts[0] for texts in res.values()], list(gts.values()))]


def _spice(gts: Tokenized, res: Tokenized, timeout: float) -> Result:
    per_image = java.spice([texts[0] for texts in res.values()], list(gts.values()), timeout)
    return [(sum(entry["All"]["f"] for entry in per_image) / len(per_image), per_image)]


def _collected(
    found: Mapping[Metric, Result | str],
    images: Sequence[str],
    tokenizer: Literal["java", "python"],
    references: int,
    notes: list[str],
) -> Scores:
    overall: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    per_image: dict[str, dict[str, Any]] = {image: {} for image in images}
    for metric, outcome in found.items():
        if isinstance(outcome, str):
            overall.update(dict.fromkeys(NAMES[metric]))
            reasons.update(dict.fromkeys(NAMES[metric], outcome))
            continue
        for name, (value, values) in zip(NAMES[metric], outcome, strict=True):
            overall[name] = float(value)
            for image, one in zip(images, values, strict=True):
                per_image[image][name] = one if isinstance(one, dict) else float(one)
    return Scores(overall, per_image, reasons, tokenizer, len(images), references, notes)
