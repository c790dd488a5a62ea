"""Tokenizers: a language model's own from its folder, or a small one trained on given texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from transformers import (
    AutoTokenizer,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from git_caption.errors import UsageError, WeightsError, reason
from git_caption.params.json_file import read_object

END = "<|endoftext|>"
# The first LLaMA repositories (decapoda-research/llama-7b-hf) name a class that is gone and give their special tokens
# as empty texts: the ids came from the sentencepiece model, whose names these are.
SENTENCEPIECE_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SMALLEST_VOCABULARY = 257  # every byte, and END


def load_tokenizer(folder: Path, end_id: int | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a model's folder; one without a padding token pads with its end token.

    Args:
        folder: the model's.
        end_id: the token that ends the model's texts, where it is not the tokenizer's own (BERT's have none).

    Raises:
        WeightsError: the folder holds no tokenizer, or one without an end token.
    """
    settings = folder / "tokenizer_config.json"
    written = read_object(settings) if settings.is_file() else {}
    options: dict[str, Any] = {key: name for key, name in SENTENCEPIECE_NAMES.items() if written.get(key) == ""}
    kind: Any = AutoTokenizer
    if written.get("tokenizer_class") == "LLaMATokenizer":
        kind = LlamaTokenizer
        options["add_bos_token"] = written.get("add_bos_token", True)
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except MemoryError:
        raise
    except Exception as error:  # of wrong settings and damaged vocabularies the libraries raise nearly anything
        raise WeightsError(
            f"{folder}: no loadable tokenizer, expected tokenizer.json, vocab.json and merges.txt, or tokenizer.model "
            f"({reason(error)})"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers found no file that this class reads
        raise WeightsError(
            f"{folder}: the vocabulary of {type(tokenizer).__name__} is empty but for special tokens, expected "
            "tokenizer.json beside the other files"
        )
    if end_id is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_id)
    if tokenizer.eos_token_id is None:
        raise WeightsError(f"{folder}: the tokenizer has no end token (eos_token), so no text would ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE (GPT-2's kind) on `texts`, save it in `folder` and load it from there.

    The same texts give the same tokenizer. `<|endoftext|>`, id 0, begins, ends and pads.

    Raises:
        UsageError: a vocabulary too small for the 256 bytes and the end token.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(
            f"vocab_size {vocab_size} is too small: a byte-level vocabulary has {SMALLEST_VOCABULARY} at least"
        )
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=model, bos_token=END, eos_token=END, pad_token=END
    )
    wrapped.save_pretrained(folder)
    return load_tokenizer(folder)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, special_tokens: bool = True) -> list[int]:
    """The token ids of a prompt, with the special tokens the tokenizer puts around it (OPT and LLaMA: one before)."""
    return [int(token) for token in tokenizer(text, add_special_tokens=special_tokens)["input_ids"]]


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str, *, after_prompt: bool, end: str = "") -> list[int]:
    """The token ids a model learns to give for `text`, and its end token; after a prompt the text begins a new word.

    end: text that stands in place of the end token, in tokens of its own.
    """
    text = f" {text}" if after_prompt else text
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not end:
        return [*ids, int(tokenizer.eos_token_id)]
    return [*ids, *(int(token) for token in tokenizer(end, add_special_tokens=False)["input_ids"])]


def end_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[int, ...]:
    """The ids that end a text: the tokenizer's end token, then the others that the model's config names.

    Instruct models end a turn with another token than a document (LLaMA 3: `<|eot_id|>` and `<|end_of_text|>`). Not
    among them are ids past the vocabulary, nor the begin token, which the first LLaMA repositories name by mistake.
    """
    named = model.config.eos_token_id
    others = [named] if isinstance(named, int) else named or []
    vocabulary = range(model.config.get_text_config().vocab_size)
    kept = [number for number in others if number in vocabulary and number != tokenizer.bos_token_id]
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *kept]))


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens left out and spaces as they are."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
