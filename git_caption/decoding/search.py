"""Greedy search, sampling and beam search over texts being continued.

All texts of a batch have the same number of generated tokens at any moment, and leave the batch when they end.

Shape letters: R texts at the moment, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

if TYPE_CHECKING:
    from git_caption.decoding.continuation import Continuation
    from git_caption.decoding.rules import Rules
    from git_caption.params.decoding import Decoding


@dataclass
class Text:
    """A text under way or done.

    Attributes:
        ids: what was generated, the end token included.
        logprobs: of each token, by the model itself: penalties, temperature and rules do not count.
        score: what beam search sums up.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    score: float = 0.0

    def then(self, token: int, logprob: float, score: float = 0.0) -> Text:
        """This text and one token more."""
        return Text([*self.ids, token], [*self.logprobs, logprob], score)


@dataclass(frozen=True)
class Ending:
    """When a text ends, beside its length: at an end token, or where a stop text stands in it."""

    tokens: tuple[int, ...]
    stopped: Callable[[list[int]], bool]

    def reached(self, ids: list[int], budget: int) -> bool:
        """Whether these ids are a whole text."""
        return ids[-1] in self.tokens or len(ids) >= budget or self.stopped(ids)


def one_by_one(
    continuation: Continuation,
    decoding: Decoding,
    rules: Rules,
    ending: Ending,
    budgets: Sequence[int],
    generators: Sequence[Sequence[torch.Generator]],
) -> list[list[Text]]:
    """The texts that come of taking one token after another: the likeliest, or one drawn.

    Args:
        continuation: the contexts.
        decoding: what to do.
        rules: what each token must obey.
        ending: when a text ends.
        budgets: of each context, the most tokens of a text.
        generators: of each context, one for each of its texts; greedy search draws nothing from them.
    """
    contexts = [number for number, drawn in enumerate(generators) for _ in drawn]
    sources = [generator for drawn in generators for generator in drawn]
    warpers = _warpers(decoding)
    texts = [Text() for _ in contexts]
    live = list(range(len(texts)))
    continuation.take(contexts)
    while True:
        logits = continuation.logits
        scores = rules(logits, [texts[number].ids for number in live], [budgets[contexts[number]] for number in live])
        if decoding.do_sample:
            warped = warpers(None, scores)  # type: ignore[arg-type]
            chosen = _drawn(warped, [sources[number] for number in live])
        else:
            chosen = scores.argmax(dim=-1)
        logprobs = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)
        tokens = chosen.tolist()
        going_on = []
        for place, (number, token, logprob) in enumerate(zip(live, tokens, logprobs.tolist(), strict=True)):
            texts[number] = texts[number].then(token, logprob)
            if not ending.reached(texts[number].ids, budgets[contexts[number]]):
                going_on.append(place)
        if not going_on:
            break
        continuation.follow(going_on, [tokens[place] for place in going_on])
        live = [live[place] for place in going_on]
    following = iter(texts)
    return [[next(following) for _ in drawn] for drawn in generators]


def _warpers(decoding: Decoding) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if decoding.do_sample and decoding.temperature != 1.0:
        found.append(TemperatureLogitsWarper(float(decoding.temperature)))
    if decoding.top_k:
        found.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        found.append(TopPLogitsWarper(decoding.top_p))
    return found


def _drawn(scores: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """A token long[R] for each row of scores, by one number of the row's own generator: no row sees another's."""
    cumulative = scores.double().softmax(dim=-1).cpu().cumsum(dim=-1)
    uniform = torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    found = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    return found.clamp(max=scores.shape[1] - 1).to(scores.device)


def beam_search(
    continuation: Continuation, decoding: Decoding, rules: Rules, ending: Ending, budgets: Sequence[int]
) -> list[list[Text]]:
    """The `num_captions` best texts of each context that beam search finds, the best first.

    A context is done when `num_beams` texts have ended (transformers' `early_stopping=True`); they are ranked by their
    summed scores divided by their length to the power of `length_penalty`. Parameters as `one_by_one`.
    """
    searches = [_Beams(decoding, ending, budget) for budget in budgets]
    live = searches
    # Even where every end token is among the best, so many leave a full set of beams that go on.
    count = min(decoding.num_beams * (1 + len(ending.tokens)), continuation.logits.shape[1])
    while live:
        texts = [(text, search.budget) for search in live for text in search.live]
        logprobs = continuation.logits.log_softmax(dim=-1)
        scores = rules(logprobs, [text.ids for text, _ in texts], [budget for _, budget in texts])
        best, tokens = scores.topk(count)
        rows = list(zip(best.tolist(), tokens.tolist(), logprobs.gather(1, tokens).tolist(), strict=True))
        sources, start = [], 0
        for search in live:
            width = len(search.live)
            sources += [start + place for place in search.advance(rows[start : start + width], count)]
            start += width
        live = [search for search in live if search.live]
        if live:
            continuation.follow(sources, [text.ids[-1] for search in live for text in search.live])
    return [search.done[: decoding.num_captions] for search in searches]


class _Beams:
    """The beam search of one context. live: texts that go on, the best first. done: those that ended, likewise."""

    def __init__(self, decoding: Decoding, ending: Ending, budget: int) -> None:
        self.width = decoding.num_beams
        self.length_penalty = decoding.length_penalty
        self.ending = ending
        self.budget = budget
        self.live = [Text()]
        self.done: list[Text] = []

    def advance(self, rows: Sequence[tuple[list[float], list[int], list[float]]], count: int) -> list[int]:
        """Go one token on; gives the places, in the present `live`, that the next ones come from.

        rows: of each live text, the scores, ids and log-probabilities of its best tokens. Of all together the `count`
        best are looked at: what ended among the first `num_beams` is done, the best of the others go on.
        """
        candidates = [
            (text.score + score, place, token, logprob)
            for place, (text, row) in enumerate(zip(self.live, rows, strict=True))
            for score, token, logprob in zip(*row, strict=True)
            if score > -math.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        places: list[int] = []
        live: list[Text] = []
        for rank, (score, place, token, logprob) in enumerate(candidates[:count]):
            text = self.live[place].then(token, logprob, score)
            if self.ending.reached(text.ids, self.budget):
                if rank < self.width:
                    self.done.append(text)
            elif len(live) < self.width:
                live.append(text)
                places.append(place)
        if not candidates:  # the rules leave nothing to go on with
            self.done += self.live
        self.done = sorted(self.done, key=self._rank)[: self.width]
        if len(self.done) == self.width:
            places, live = [], []
        self.live = live
        return places

    def _rank(self, text: Text) -> float:
        return -text.score / float(max(1, len(text.ids)) ** self.length_penalty)
