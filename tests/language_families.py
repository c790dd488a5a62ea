"""Tiny random language models of each family, with tokenizers of the family's own kind, written as they are published.

Each has the traps of its kind: a begin token that is put in front or not, padding that is the end token or is not,
several end tokens, tied or separate embeddings, a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

TEXTS = [
    "a red circle on a blue field",
    "two small squares, one green",
    "what is left of the star?",
    "user assistant system",
] * 3
POSITIONS = 256
GROUPED = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as Qwen3's: without thinking the answer begins after an empty thought
THINKING = CHATML.replace(
    "assistant\n",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)
# as LLaMA 3.2's: the template writes the begin token, and the day
HEADERS = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday: {{ strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a family is published.

    Attributes:
        model_type: transformers' name of the architecture.
        sizes: of the architecture.
        special: tokens that have ids of their own, by what `tokenizer_config.json` calls them; the rest by number.
        settings: others of `tokenizer_config.json`.
        layout: writes the tokenizer's vocabulary.
        tied: whether the output layer is the input embedding.
        in_front: the ids that the tokenizer puts before every text.
        ends: the tokens that end a text, the tokenizer's first.
        padding: the token that pads.
    """

    model_type: str
    sizes: dict[str, Any]
    special: tuple[str, ...]
    settings: dict[str, Any]
    layout: Callable[[Path, Family], None]
    tied: bool
    in_front: tuple[str, ...]
    ends: tuple[str, ...]
    padding: str
    more: dict[str, Any] = field(default_factory=dict)


def vocabulary_and_merges(folder: Path, family: Family) -> None:
    """GPT-2's files."""
    _byte_level(family).model.save(str(folder))


def one_file(folder: Path, family: Family) -> None:
    """A tokenizer.json; one that puts a token in front has the rule in it."""
    tokenizer = _byte_level(family)
    if family.in_front:
        (token,) = family.in_front
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))


def sentencepiece_model(folder: Path, family: Family) -> None:
    """LLaMA's first file, with bytes for what is not in the vocabulary."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=-1,
    )
    (folder / "tokenizer.vocab").unlink()


def write(folder: Path, name: str, seed: int = 0) -> Path:
    """A random model of the family `name` and its tokenizer, in `folder`."""
    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    family.layout(folder, family)
    (folder / "tokenizer_config.json").write_text(json.dumps(family.settings))
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family.model_type, vocab_size=VOCABULARY, tie_word_embeddings=family.tied, **family.sizes
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large enough that texts differ from image to image
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ids = _ids(folder, family)
    ends = [ids[token] for token in family.ends]
    model.config.eos_token_id = ends[0]
    model.generation_config = GenerationConfig(eos_token_id=ends if len(ends) > 1 else ends[0])
    model.save_pretrained(folder)
    return folder


def _ids(folder: Path, family: Family) -> dict[str, int]:
    if family.layout is sentencepiece_model:
        return {"<unk>": 0, "<s>": 1, "</s>": 2}
    return {token: number for number, token in enumerate(family.special)}


def _byte_level(family: Family) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(family.special),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


VOCABULARY = 352  # more rows than tokens, as published models have
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
_OPT = {
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
_OPT_TOKENIZER = {
    "tokenizer_class": "GPT2Tokenizer",
    "add_bos_token": True,
    "bos_token": "</s>",
    "eos_token": "</s>",
    "unk_token": "</s>",
    "pad_token": "<pad>",
}
_LLAMA3 = {
    **GROUPED,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
_END, _TURN = "<|endoftext|>", "<|im_end|>"

FAMILIES = {
    "gpt2": Family(
        model_type="gpt2",
        sizes=_GPT2,
        special=(_END,),
        settings={"tokenizer_class": "GPT2Tokenizer"},
        layout=vocabulary_and_merges,
        tied=True,
        in_front=(),
        ends=(_END,),
        padding=_END,
    ),
    "opt": Family(
        model_type="opt",
        sizes=_OPT,
        special=("<s>", "<pad>", "</s>", "<unk>"),
        settings=_OPT_TOKENIZER,
        layout=vocabulary_and_merges,
        tied=True,
        in_front=("</s>",),
        ends=("</s>",),
        padding="<pad>",
    ),
    "opt-350m": Family(
        model_type="opt",
        sizes={**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        special=("<s>", "<pad>", "</s>", "<unk>"),
        settings=_OPT_TOKENIZER,
        layout=vocabulary_and_merges,
        tied=True,
        in_front=("</s>",),
        ends=("</s>",),
        padding="<pad>",
    ),
    "llama2": Family(
        model_type="llama",
        sizes={**GROUPED, "num_key_value_heads": 4},
        special=(),
        settings={
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "legacy": False,
        },
        layout=sentencepiece_model,
        tied=False,
        in_front=("<s>",),
        ends=("</s>",),
        padding="</s>",
    ),
    "llama3": Family(
        model_type="llama",
        sizes=_LLAMA3,
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        settings={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "chat_template": HEADERS,
        },
        layout=one_file,
        tied=False,
        in_front=("<|begin_of_text|>",),
        ends=("<|end_of_text|>", "<|eot_id|>"),
        padding="<|end_of_text|>",
    ),
    "qwen2": Family(
        model_type="qwen2",
        sizes=GROUPED,
        special=(_END, "<|im_start|>", _TURN),
        settings={
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": _TURN,
            "pad_token": _END,
            "chat_template": CHATML,
        },
        layout=one_file,
        tied=True,
        in_front=(),
        ends=(_TURN, _END),
        padding=_END,
    ),
    "qwen3": Family(
        model_type="qwen3",
        sizes={**GROUPED, "head_dim": 24},
        special=(_END, "<|im_start|>", _TURN, "<think>", "</think>"),
        settings={
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": _TURN,
            "pad_token": _END,
            "chat_template": THINKING,
        },
        layout=one_file,
        tied=True,
        in_front=(),
        ends=(_TURN, _END),
        padding=_END,
    ),
    "smollm": Family(
        model_type="llama",
        sizes=GROUPED,
        special=(_END, "<|im_start|>", _TURN),
        settings={
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|im_start|>",
            "eos_token": _TURN,
            "pad_token": _TURN,
            "unk_token": _END,
            "chat_template": CHATML,
        },
        layout=one_file,
        tied=True,
        in_front=(),
        ends=(_TURN,),
        padding=_TURN,
    ),
}
