"""Generation through a model's own `generate`, for models that are not taken apart into features and continuation.

Rows of one call have inputs of the same shapes, so that there is no padding through which they could influence one
another, and a sampled row has a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from git_caption.decoding.allowed import allowed_texts
from git_caption.decoding.continuation import not_finite
from git_caption.decoding.generate import Generated, Identity, best_first, budgets_of, derived_seed, finished
from git_caption.decoding.rules import Rules
from git_caption.decoding.search import Text
from git_caption.model.language import context_length
from git_caption.text.tokenizer import decode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from git_caption.params.decoding import Decoding

# What of a model's own generation_config.json is about its tokens, and so not a matter of taste.
TOKEN_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)


def token_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The model's own token settings; where it names no end or padding, the tokenizer's."""
    own = {name: getattr(model.generation_config, name, None) for name in TOKEN_SETTINGS}
    own["eos_token_id"] = tokenizer.eos_token_id if own["eos_token_id"] is None else own["eos_token_id"]
    own["pad_token_id"] = tokenizer.pad_token_id if own["pad_token_id"] is None else own["pad_token_id"]
    return {name: value for name, value in own.items() if value is not None}


@torch.inference_mode()
def generate_whole(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    decoding: Decoding,
    tokens: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    identities: Sequence[Identity],
) -> list[list[Generated]]:
    """Generate `decoding.num_captions` texts for each of B rows, the best first.

    Args:
        model: takes `inputs` in `generate`, and has an empty generation config of its own.
        inputs: of B rows, one row where texts are sampled.
        decoding: what to do, settled.
        tokens: as `token_settings` gives them.
        tokenizer: the model's.
        identities: of the B rows.

    Raises:
        DataError: a prompt that leaves the language model no position to generate at, or a logit that is not a number;
            names the row.
        UsageError: allowed texts that the tokenizer cannot spell.
    """
    ends = tokens["eos_token_id"] if isinstance(tokens["eos_token_id"], list) else [tokens["eos_token_id"]]
    allowed = allowed_texts(decoding.allowed_texts, tokenizer, after_prompt=True) if decoding.allowed_texts else None
    positions = None if model.config.is_encoder_decoder else context_length(model)
    lengths = [int(inputs["input_ids"].shape[1])] * len(identities)  # one, for the rows have the same shapes
    longest = budgets_of(positions, lengths, decoding, allowed, identities)[0]
    scored = decoding.with_scores or (decoding.do_sample and decoding.num_captions > 1)
    settings = _settings(decoding, longest) | {"return_dict_in_generate": True, "output_logits": scored}
    config = GenerationConfig(**settings, **tokens)  # type: ignore[no-untyped-call]

    def sound(scores: Tensor) -> None:
        # minus infinity is no fault here: tokens that the model's own settings suppress have it already
        usable = (scores < torch.inf).all(dim=1)  # not where there is a NaN
        if not bool(usable.all()):
            row = int(usable.long().argmin()) // (
                len(scores) // len(identities)
            )  # its texts or beams follow one another
            raise not_finite(str(identities[row]), model)

    def run() -> list[Generated]:
        after = _AfterPrompt(Rules(decoding, ends, allowed), ends, longest, sound)
        stopping = [_StopTexts(decoding.stop, tokenizer, after)] if decoding.stop else []
        found: Any = model.generate(  # type: ignore[operator]
            **inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList([after]),
            stopping_criteria=StoppingCriteriaList(stopping),
        )
        rows = [ids[after.start :] for ids in found.sequences.tolist()]
        logprobs = _logprobs(model, found) if scored else [[0.0] * len(ids) for ids in rows]
        lengths = [next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids)) for ids in rows]
        texts = [Text(ids[:n], of[:n]) for ids, of, n in zip(rows, logprobs, lengths, strict=True)]
        return [finished(text, decoding.stop, tokenizer, allowed) for text in texts]

    if decoding.do_sample:
        assert len(identities) == 1, "sampled rows go one by one"
        drawn: list[Generated] = []
        for number in range(decoding.num_captions):
            with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
                torch.manual_seed(derived_seed(decoding.seed, identities[0], number))
                drawn += run()
        texts = [best_first(drawn, decoding.length_penalty)]
    else:
        flat, each = run(), decoding.num_captions
        texts = [flat[start : start + each] for start in range(0, len(flat), each)]
    if not decoding.with_scores:
        texts = [[replace(text, logprob=None, mean_logprob=None) for text in row] for row in texts]
    return texts


def _settings(decoding: Decoding, longest: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "do_sample": decoding.do_sample,
        "num_beams": decoding.num_beams,
        "max_new_tokens": longest,
    }
    if decoding.do_sample:
        settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
    elif decoding.num_beams > 1:
        settings |= {
            "num_return_sequences": decoding.num_captions,
            "length_penalty": decoding.length_penalty,
            "early_stopping": True,
        }
    return settings


class _AfterPrompt(LogitsProcessor):
    """The rules, which look at generated tokens alone; `start` is where these begin, known from the first step on."""

    def __init__(self, rules: Rules, ends: Sequence[int], budget: int, check: Callable[[Tensor], None]) -> None:
        self.start = -1
        self.check = check
        self.rules = rules
        self.ends = set(ends)
        self.budget = budget

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.start < 0:
            self.start = input_ids.shape[1]
        self.check(scores)
        texts = input_ids[:, self.start :].tolist()
        ruled = self.rules(scores, texts, [self.budget] * len(texts))
        done = torch.tensor([not self.ends.isdisjoint(ids) for ids in texts], device=scores.device)
        return torch.where(done[:, None], scores, ruled)


class _StopTexts(StoppingCriteria):
    """Ends a row when what it has generated holds one of the texts, wherever token borders fall."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, after: _AfterPrompt) -> None:
        self.texts = texts
        self.tokenizer = tokenizer
        self.after = after

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [decode(self.tokenizer, ids) for ids in input_ids[:, self.after.start :].tolist()]
        stopped = [any(stop in text for stop in self.texts) for text in texts]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)


def _logprobs(model: PreTrainedModel, found: Any) -> list[list[float]]:
    """What the model itself thinks of each generated token; penalties, temperature and rules do not count."""
    scores: Tensor = model.compute_transition_scores(  # type: ignore[operator]
        found.sequences, found.logits, found.get("beam_indices"), normalize_logits=True
    )
    return [[float(logprob) for logprob in row] for row in scores.tolist()]
