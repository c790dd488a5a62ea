"""Rules of decoding: what a text may go on with, whatever the model thinks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

if TYPE_CHECKING:
    from git_caption.decoding.allowed import AllowedTexts
    from git_caption.params.decoding import Decoding


class Rules:
    """Least lengths, penalties and allowed texts, applied to the scores of the next token.

    Penalties look at generated tokens alone: the prompt is an embedding to them.
    """

    def __init__(self, decoding: Decoding, ends: Sequence[int], allowed: AllowedTexts | None) -> None:
        self._ends = list(ends)
        self._min_new_tokens = decoding.min_new_tokens
        self._allowed = allowed
        self._processors = LogitsProcessorList()
        if decoding.repetition_penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
        if decoding.no_repeat_ngram_size:
            self._processors.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))

    def __call__(self, scores: Tensor, texts: Sequence[list[int]], budgets: Sequence[int]) -> Tensor:
        """The scores float[R, V] as the rules leave them: -inf where a token may not come.

        Args:
            scores: of the token after each text.
            texts: the generated ids of R texts, all of one length.
            budgets: the most tokens each text may get; a least length beyond it gives way.
        """
        length = len(texts[0])
        if self._processors and length:
            scores = self._processors(torch.tensor(texts, device=scores.device), scores)  # type: ignore[arg-type]
        short = [row for row, budget in enumerate(budgets) if length < min(self._min_new_tokens, budget)]
        if short:
            scores = scores.clone()
            scores[torch.tensor(short)[:, None], torch.tensor(self._ends)] = -torch.inf
        if self._allowed is not None:
            kept = torch.full_like(scores, -torch.inf)
            for row, ids in enumerate(texts):
                following = self._allowed.following(ids)
                kept[row, following] = scores[row, following]
            scores = kept
        return scores
