"""From features and prompts to texts: the way in to greedy search, sampling and beam search.

Rows of a batch do not influence one another: contexts are padded on the left and masked, beams are scored row by row,
and a sampled text has a generator of its own. In fp32 a batch therefore gives the texts its rows give one by one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from git_caption.decoding.allowed import AllowedTexts, allowed_texts
from git_caption.decoding.continuation import Continuation
from git_caption.decoding.rules import Rules
from git_caption.decoding.search import Ending, Text, beam_search, one_by_one
from git_caption.errors import DataError
from git_caption.model.language import context_length
from git_caption.text.tokenizer import decode, end_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from git_caption.model.git import GitNetwork
    from git_caption.model.pretrained_network import PretrainedNetwork
    from git_caption.model.vision import Features
    from git_caption.params.decoding import Decoding


@dataclass(frozen=True)
class Identity:
    """What a row is, wherever it stands: the seed of its sampling comes from this and from nothing of the batch.

    `name` is what errors call it, where that is not its key and question.
    """

    key: str
    question_id: str | int | None = None
    name: str | None = None

    def __str__(self) -> str:
        """As errors name it."""
        if self.name is not None:
            return self.name
        return self.key if self.question_id is None else f"{self.key}, question_id {self.question_id}"


@dataclass(frozen=True)
class Generated:
    """One text.

    Attributes:
        text: without special tokens, stop texts and outer white space.
        token_ids: the tokens that spell it, with the end token where one was generated.
        logprob: natural logarithm of the probability the model gives these tokens; None where not asked for.
        mean_logprob: `logprob` by the number of tokens; 0 for a text of no tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float | None = None
    mean_logprob: float | None = None


@torch.inference_mode()
def generate(
    network: GitNetwork | PretrainedNetwork,
    features: Features,
    prompt_ids: Sequence[Sequence[int]],
    decoding: Decoding,
    tokenizer: PreTrainedTokenizerBase,
    identities: Sequence[Identity],
    *,
    after_prompt: bool = False,
) -> list[list[Generated]]:
    """Generate `decoding.num_captions` texts for each of B rows, the best first.

    Args:
        network: the captioning network, in evaluation mode.
        features: of B images; those of an image with several prompts are repeated (`Features.select`).
        prompt_ids: B lists of token ids, each as long as it is.
        decoding: what to do, settled.
        tokenizer: the language model's; its end token, or another that the model names, ends a text.
        identities: of the B rows.
        after_prompt: whether allowed texts begin a new word, as they do after a prompt in plain text.

    Raises:
        DataError: a prompt that leaves the language model no position to generate at, or a logit that is not a finite
            number; names the row.
        UsageError: allowed texts that the tokenizer cannot spell.
    """
    if not prompt_ids:
        return []
    allowed = None
    if decoding.allowed_texts:
        allowed = allowed_texts(decoding.allowed_texts, tokenizer, after_prompt=after_prompt)
    inputs = network.language_inputs(features, prompt_ids)
    lengths = [int(length) for length in inputs["attention_mask"].sum(dim=1).tolist()]
    budgets = budgets_of(context_length(network.language_model), lengths, decoding, allowed, identities)
    continuation = Continuation(network.language_model, inputs, [str(identity) for identity in identities])
    ends = end_token_ids(tokenizer, network.language_model)
    rules = Rules(decoding, ends, allowed)
    ending = Ending(
        ends, lambda ids: bool(decoding.stop) and first_stop(decode(tokenizer, ids), decoding.stop) is not None
    )
    if decoding.num_beams > 1:
        rows = beam_search(continuation, decoding, rules, ending, budgets)
    else:
        rows = one_by_one(continuation, decoding, rules, ending, budgets, _generators(decoding, identities))
    found = [[finished(text, decoding.stop, tokenizer, allowed) for text in texts] for texts in rows]
    if decoding.do_sample:
        found = [best_first(texts, decoding.length_penalty) for texts in found]
    if not decoding.with_scores:
        found = [[replace(text, logprob=None, mean_logprob=None) for text in texts] for texts in found]
    return found


def derived_seed(seed: int, identity: Identity, number: int) -> int:
    """The seed of one sampled text, 63 bits: a hash of the run's seed, what the row is, and the caption's number."""
    drawn = json.dumps([seed, identity.key, identity.question_id, number])
    return int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big") >> 1


def budgets_of(
    positions: int | None,
    lengths: Sequence[int],
    decoding: Decoding,
    allowed: AllowedTexts | None,
    identities: Sequence[Identity],
) -> list[int]:
    """The most tokens each row may get: what was asked for, or less where the model's positions end before.

    Args:
        positions: how many the language model has; None where it has no limit.
        lengths: of what stands before the texts of each row, in tokens.
        decoding: what to do, settled.
        allowed: the texts that may come.
        identities: of the rows.

    Raises:
        DataError: nothing, or not every allowed text, can follow; names the row.
    """
    asked = decoding.max_new_tokens if allowed is None else allowed.longest
    least = 1 if allowed is None else allowed.longest  # an allowed text is not cut
    budgets = [asked if positions is None else min(asked, positions - length) for length in lengths]
    for identity, length, budget in zip(identities, lengths, budgets, strict=True):
        if budget < least:
            wanted = (
                "nothing can follow"
                if allowed is None
                else f"an allowed text of {allowed.longest} tokens cannot follow"
            )
            raise DataError(
                f"{identity}: prefix and prompt have {length} tokens, the language model {positions} positions, so "
                f"{wanted}; shorten the prompt"
            )
    return budgets


def _generators(decoding: Decoding, identities: Sequence[Identity]) -> list[list[torch.Generator]]:
    """One for each text of each row."""
    return [
        [
            torch.Generator().manual_seed(derived_seed(decoding.seed, identity, number))
            for number in range(decoding.num_captions)
        ]
        for identity in identities
    ]


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins; None where there is none."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def finished(
    found: Text,
    stops: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    allowed: AllowedTexts | None,
) -> Generated:
    """Cut from the first stop text on, and score what is left."""
    length = len(found.ids)
    text = decode(tokenizer, found.ids)
    if (place := first_stop(text, stops)) is not None:
        text = text[:place]
        # the fewest tokens that spell what is kept, for a stop text need not begin at a token's border
        length = next(count for count in range(length + 1) if decode(tokenizer, found.ids[:count]).startswith(text))
    logprob = math.fsum(found.logprobs[:length])
    return Generated(
        text.strip() if allowed is None else allowed.text(found.ids),
        tuple(found.ids[:length]),
        logprob,
        logprob / max(1, length),
    )


def best_first(texts: list[Generated], length_penalty: float) -> list[Generated]:
    """Order sampled texts as beam search orders its beams: by the score per token to the power of the penalty."""
    return sorted(texts, key=lambda text: -(text.logprob or 0.0) / max(1, len(text.token_ids)) ** length_penalty)
