"""Greedy search, beam search and sampling after a prefix, through transformers' `generate` on input embeddings.

Rows of a batch do not influence one another: contexts are padded on the left and masked, beams are scored row by row,
and a sampled text has a generator of its own. In fp32 a batch therefore gives the texts its rows give one by one.
`repetition_penalty` and `no_repeat_ngram_size` look at generated tokens alone: the prompt is an embedding to them.

Shape letters: B batch, L context length (prefix and prompt), D_l language width, T text length.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from git_caption.errors import DataError
from git_caption.model.git import LanguageInputs, TextBatch
from git_caption.model.language import context_length
from git_caption.text.tokenizer import decode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from git_caption.model.git import GitNetwork
    from git_caption.model.vision import Features
    from git_caption.params.decoding import Decoding


@dataclass(frozen=True)
class Identity:
    """What a row is, wherever it stands: the seed of its sampling comes from this and from nothing of the batch."""

    key: str
    question_id: str | int | None = None

    def __str__(self) -> str:
        """As errors name it."""
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
    network: GitNetwork,
    features: Features,
    prompt_ids: Sequence[Sequence[int]],
    decoding: Decoding,
    tokenizer: PreTrainedTokenizerBase,
    identities: Sequence[Identity],
) -> list[list[Generated]]:
    """Generate `decoding.num_captions` texts for each of B rows, the best first.

    Args:
        network: the captioning network, in evaluation mode.
        features: of B images; those of an image with several prompts are repeated (`Features.select`).
        prompt_ids: B lists of token ids, each as long as it is.
        decoding: what to do, settled.
        tokenizer: the language model's; its end token ends a text.
        identities: of the B rows.

    Raises:
        DataError: a prompt that leaves the language model no position to generate at; names the row.
    """
    if not prompt_ids:
        return []
    inputs = network.language_inputs(features, prompt_ids)
    rows: list[list[Generated]] = [[] for _ in prompt_ids]
    for numbers, budget in _groups(network.language_model, inputs, decoding, identities):
        drawn = [identities[number] for number in numbers]
        found = _token_ids(network.language_model, _rows(inputs, numbers), decoding, budget, tokenizer, drawn)
        for number, texts in zip(numbers, found, strict=True):
            rows[number] = [_finished(ids, decoding.stop, tokenizer) for ids in texts]
    several_drawn = decoding.do_sample and decoding.num_captions > 1
    if decoding.with_scores or several_drawn:
        rows = _scored(network, features, prompt_ids, rows)
    if several_drawn:
        rows = [_best_first(texts, decoding.length_penalty) for texts in rows]
    if not decoding.with_scores:
        rows = [[replace(text, logprob=None, mean_logprob=None) for text in texts] for texts in rows]
    return rows


def derived_seed(seed: int, identity: Identity, number: int) -> int:
    """The seed of one sampled text, 63 bits: a hash of the run's seed, what the row is, and the caption's number."""
    drawn = json.dumps([seed, identity.key, identity.question_id, number])
    return int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big") >> 1


def _groups(
    model: PreTrainedModel, inputs: LanguageInputs, decoding: Decoding, identities: Sequence[Identity]
) -> list[tuple[list[int], int]]:
    """The rows that go through `generate` together, each group with the number of tokens it may generate.

    That number is `max_new_tokens`, or less for a row so long that the model's positions end before.
    """
    lengths = [int(length) for length in inputs["attention_mask"].sum(dim=1).tolist()]
    positions = context_length(model)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, length in enumerate(lengths):
        budget = decoding.max_new_tokens if positions is None else min(decoding.max_new_tokens, positions - length)
        if budget < 1:
            raise DataError(
                f"{identities[number]}: prefix and prompt have {length} tokens, the language model {positions} "
                "positions, so nothing can follow; shorten the prompt"
            )
        # Alone: a row whose draws must not depend on others, and one where stop texts may end all beams at once,
        # after which `generate` would go on filling its lower places for as long as other rows last.
        alone = decoding.do_sample or (bool(decoding.stop) and decoding.num_captions > 1)
        groups.setdefault((budget, number if alone else 0), []).append(number)
    return [(numbers, budget) for (budget, _), numbers in groups.items()]


def _rows(inputs: LanguageInputs, numbers: list[int]) -> LanguageInputs:
    """Some rows of the batch, without the columns that are padding to all of them."""
    mask = inputs["attention_mask"][numbers]
    longest = int(mask.sum(dim=1).max())
    return {
        "inputs_embeds": inputs["inputs_embeds"][numbers][:, -longest:],  # [B, L, D_l]
        "attention_mask": mask[:, -longest:],
    }


def _token_ids(
    model: PreTrainedModel,
    inputs: LanguageInputs,
    decoding: Decoding,
    budget: int,
    tokenizer: PreTrainedTokenizerBase,
    identities: list[Identity],
) -> list[list[list[int]]]:
    """The ids `generate` gives for each row and caption, with what it pads them with."""
    config = _generation_config(decoding, budget, tokenizer)
    # What the model's own generation_config.json holds would fill every field left unset.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    stopping = StoppingCriteriaList([_StopTexts(decoding.stop, tokenizer)] if decoding.stop else [])
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        # Not by the config: from there transformers 5.23 exempts as many generated tokens as a row has padding,
        # as if they were its prompt, and a row's text depends on its batch.
        processors.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))

    def run() -> list[list[int]]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Passing `no_repeat_ngram_size`", category=UserWarning)
            ids: Any = model.generate(  # type: ignore[operator]
                **inputs, generation_config=config, stopping_criteria=stopping, logits_processor=processors
            )
        return [list(row) for row in ids.tolist()]

    if not decoding.do_sample:
        flat, each = run(), decoding.num_captions
        return [flat[start : start + each] for start in range(0, len(flat), each)]
    assert len(identities) == 1, "sampled rows go one by one"
    device = inputs["inputs_embeds"].device
    texts = []
    for number in range(decoding.num_captions):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derived_seed(decoding.seed, identities[0], number))
            texts += run()
    return [texts]


def _generation_config(decoding: Decoding, budget: int, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    settings: dict[str, Any] = {}
    if decoding.do_sample:
        settings = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
    elif decoding.num_beams > 1:
        settings = {
            "num_return_sequences": decoding.num_captions,
            "length_penalty": decoding.length_penalty,
            "early_stopping": True,
        }
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=decoding.do_sample,
        num_beams=decoding.num_beams,
        max_new_tokens=budget,
        min_new_tokens=min(decoding.min_new_tokens, budget),
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


class _StopTexts(StoppingCriteria):
    """Ends a row when what it has generated holds one of the texts, wherever token borders fall."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.texts = texts
        self.tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        # input_ids holds new tokens alone, for the context is given as embeddings
        texts = [decode(self.tokenizer, ids) for ids in input_ids.tolist()]
        stopped = [_first_stop(text, self.texts) is not None for text in texts]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins; None where there is none."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def _finished(ids: list[int], stops: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Generated:
    """Cut what comes after the end token, and from the first stop text on."""
    end = tokenizer.eos_token_id
    length = ids.index(end) + 1 if end in ids else len(ids)
    text = decode(tokenizer, ids[:length])
    if (place := _first_stop(text, stops)) is not None:
        text = text[:place]
        # the fewest tokens that spell what is kept, for a stop text need not begin at a token's border
        length = next(count for count in range(length + 1) if decode(tokenizer, ids[:count]).startswith(text))
    return Generated(text.strip(), tuple(ids[:length]))


def _scored(
    network: GitNetwork,
    features: Features,
    prompt_ids: Sequence[Sequence[int]],
    rows: list[list[Generated]],
) -> list[list[Generated]]:
    """Add what the model itself thinks of each text: penalties and temperature do not count."""
    numbers = [number for number, texts in enumerate(rows) for _ in texts]
    texts = [text for row in rows for text in row]
    picked = features.select(torch.tensor(numbers, device=features.values.device))
    batch = TextBatch([list(prompt_ids[number]) for number in numbers], [list(text.token_ids) for text in texts])
    logprobs = network.token_logprobs(picked, batch).sum(dim=1).tolist()  # one for each text
    scored = iter(
        replace(text, logprob=logprob, mean_logprob=logprob / max(1, len(text.token_ids)))
        for text, logprob in zip(texts, logprobs, strict=True)
    )
    return [[next(scored) for _ in row] for row in rows]


def _best_first(texts: list[Generated], length_penalty: float) -> list[Generated]:
    """Order sampled texts as beam search orders its beams: by the score per token to the power of the penalty."""
    return sorted(texts, key=lambda text: -(text.logprob or 0.0) / max(1, len(text.token_ids)) ** length_penalty)
