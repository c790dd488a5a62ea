"""8 and 4 bits of bitsandbytes: what a folder is stored in, and what `from_pretrained` is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils.import_utils import is_bitsandbytes_available

from git_caption.errors import UsageError, WeightsError
from git_caption.params.json_file import read_object

Quantization = Literal["none", "8bit", "4bit"]
FLAGS: dict[Quantization, str] = {"8bit": "load_in_8bit", "4bit": "load_in_4bit"}  # of a quantization_config


def quantization_of(architecture: Mapping[str, Any] | None) -> Quantization:
    """The precision that a transformers config says its weights are stored in.

    Raises:
        WeightsError: it is neither full precision nor 8 or 4 bits of bitsandbytes.
    """
    stored = (architecture or {}).get("quantization_config")
    if not stored:
        return "none"
    if not isinstance(stored, Mapping):
        raise WeightsError(f"quantization_config is {stored!r}, expected an object")
    for name, flag in FLAGS.items():
        if stored.get(flag):
            return name
    raise WeightsError(
        f"the language model is quantized by {stored.get('quant_method')!r}; "
        "expected full precision, or 8 or 4 bits of bitsandbytes"
    )


def quantizing(
    folder: Path,
    asked: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    source: str,
    in_full: Sequence[str] = (),
) -> dict[str, Any]:
    """What `from_pretrained` is told about bits: nothing of weights in full precision that stay so.

    Args:
        folder: config.json and weights, as `save_pretrained` writes them.
        asked: the bits wanted; `none` is as stored.
        dtype: of what is computed from 4 bits.
        device: where quantized weights go, as they are read.
        source: where the weights are from, for errors.
        in_full: patterns of the names of modules that are not quantized.

    Raises:
        UsageError: a quantization that is not installed, or not the stored one.
        WeightsError: weights quantized in another way, or a config.json that cannot be read.
    """
    config = read_object(folder / "config.json")
    try:
        stored = quantization_of(config)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    if asked != "none" and stored not in ("none", asked):
        raise UsageError(
            f"{source}: the weights are stored in {stored} and quantization {asked!r} was asked for: "
            f"leave it out, or start from weights in full precision"
        )
    bits = stored if asked == "none" else asked
    if bits == "none":
        return {}
    settings = _settings(bits, dtype, in_full)
    return {"device_map": {"": device}} | ({"quantization_config": settings} if stored == "none" else {})


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many weights there are; in 4 bits two of them are one element."""
    states = ((parameter, getattr(parameter, "quant_state", None)) for parameter in parameters)
    return sum(parameter.numel() if state is None else state.shape.numel() for parameter, state in states)


def _settings(quantization: Quantization, dtype: torch.dtype, in_full: Sequence[str]) -> BitsAndBytesConfig:
    if quantization not in FLAGS:
        raise UsageError(f"unknown quantization {quantization!r}, known: none, 8bit, 4bit")
    if not is_bitsandbytes_available():
        raise UsageError(f"{quantization} loading needs bitsandbytes: pip install 'git-caption[8bit]'")
    # bitsandbytes says at every product that it works in float16, which is what 8 bits means there
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
    options: dict[str, Any] = {FLAGS[quantization]: True}
    if quantization == "4bit":
        options |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    if in_full:
        options["llm_int8_skip_modules"] = list(in_full)
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]
