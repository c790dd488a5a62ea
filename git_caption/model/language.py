"""Language models: any causal LM of transformers, in full precision, 8 bits or 4 bits."""

from __future__ import annotations

import inspect
import pickle
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.import_utils import is_bitsandbytes_available

from git_caption.errors import UsageError, WeightsError
from git_caption.model.weights import described

if TYPE_CHECKING:
    from git_caption.params.model import LanguageModelConfig

# buffers that old versions of transformers stored beside the weights; the models compute them now
COMPUTED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


def build_language_model(
    config: LanguageModelConfig,
    folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Build the language model of `config` on `device`, in evaluation mode.

    Args:
        config: its name, architecture and quantization.
        folder: a model folder as `save_pretrained` writes it; None builds `config.architecture` with random weights,
            to be loaded or trained by the caller (and quantized after that, by `quantized`).
        dtype: of the weights, or of what is left unquantized.
        device: where the model goes.

    Raises:
        UsageError: an architecture transformers does not know, or a quantization that is not installed.
        WeightsError: a folder that holds no loadable causal LM, or tensors that are not the model's.
    """
    if folder is None:
        return _on(_from_architecture(config, dtype), device)
    return _from_folder(folder, config.quantization, dtype, device)


def quantized(
    model: PreTrainedModel, quantization: str, dtype: torch.dtype, device: torch.device | str
) -> PreTrainedModel:
    """A loaded model in 8 or 4 bits.

    bitsandbytes quantizes while weights are read, so the model goes through a folder that is removed again.
    """
    if quantization == "none":
        return model
    with tempfile.TemporaryDirectory(prefix="git_caption_quantize_") as folder, _quiet():
        model.save_pretrained(folder)
        return _from_folder(Path(folder), quantization, dtype, device)


def width(model: PreTrainedModel) -> int:
    """D_l: the width of the embeddings the model takes (OPT-350m's differs from its hidden width)."""
    return int(model.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]


def context_length(model: PreTrainedModel) -> int | None:
    """How many positions the model has; None where it has no limit."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def check_context(model: PreTrainedModel, before: int, new_tokens: int) -> None:
    """Refuse what does not fit: `before` positions of prefix and prompt, and `new_tokens` after them.

    Raises:
        UsageError: together they are more than the model's positions.
    """
    limit = context_length(model)
    if limit is not None and before + new_tokens > limit:
        raise UsageError(
            f"prefix and prompt take {before} positions and {new_tokens} tokens follow, the language model has {limit} "
            "positions: shorten the prompt or the text"
        )


def forward_keys(model: PreTrainedModel) -> Container[str]:
    """The keyword arguments of the model's forward pass; of the model inside peft's wrapper, which takes anything."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    return inspect.signature(inner.forward).parameters


def position_ids(mask: Tensor) -> Tensor:
    """The positions of a left-padded batch: long[B, L] from a mask [B, L], counting real tokens only.

    GPT-2 numbers positions from the left edge otherwise, padding included, and its logits are wrong.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _from_architecture(config: LanguageModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    if config.architecture is None:
        raise UsageError(f"language model {config.name!r} has neither a folder of weights nor an architecture")
    settings = dict(config.architecture)
    model_type = settings.pop("model_type", None)
    try:
        architecture = AutoConfig.for_model(model_type, **settings)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            architecture, dtype=dtype, trust_remote_code=False
        )
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"language_model.architecture with model_type {model_type!r}: {reason}") from error
    return model


def _from_folder(folder: Path, quantization: str, dtype: torch.dtype, device: torch.device | str) -> PreTrainedModel:
    options: dict[str, Any] = {}
    if quantization != "none":
        options = {"quantization_config": _quantization_config(quantization, dtype), "device_map": {"": device}}
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, with all else that does not fit
                **options,
            )
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, and not the folder's fault
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{folder}: not a loadable causal language model: {str(error).splitlines()[0]}") from error
    model, info = loaded
    unexpected = [name for name in info["unexpected_keys"] if not name.endswith(COMPUTED)]
    misshapen = [
        f"{name} is {tuple(seen)}, expected {tuple(expected)}" for name, seen, expected in info["mismatched_keys"]
    ]
    found = described(
        {"missing": sorted(info["missing_keys"]), "unexpected": sorted(unexpected), "misshapen": misshapen}
    )
    if found:
        raise WeightsError(f"{folder} does not fit the language model: {found}")
    return _on(model, device) if quantization == "none" else model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load report: what does not fit is raised, in one line."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _on(model: nn.Module, device: torch.device | str) -> PreTrainedModel:
    model.to(device).eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantization not in ("8bit", "4bit"):
        raise UsageError(f"unknown quantization {quantization!r}, known: none, 8bit, 4bit")
    if not is_bitsandbytes_available():
        raise UsageError(f"{quantization} loading needs bitsandbytes: pip install 'git-caption[8bit]'")
    # bitsandbytes says at every product that it works in float16, which is what 8 bits means there
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
    options: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]
