"""Language models: any causal LM of transformers, in full precision, 8 bits or 4 bits."""

from __future__ import annotations

import inspect
import json
import tempfile
import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer

from git_caption.errors import UsageError
from git_caption.model.device_map import DeviceMap
from git_caption.model.folder import load_folder, quiet
from git_caption.model.quantization import Quantization, quantizing

if TYPE_CHECKING:
    from git_caption.params.model import LanguageModelConfig


def build_language_model(
    config: LanguageModelConfig,
    folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    device_map: DeviceMap | None = None,
) -> PreTrainedModel:
    """Build the language model of `config` on `device`, in evaluation mode.

    Args:
        config: its name, architecture and quantization.
        folder: a model folder as `save_pretrained` writes it; one saved in 8 or 4 bits stays as it is. None builds
            `config.architecture` with random weights, to be loaded or trained by the caller (and quantized or spread
            over devices after that, by `converted`).
        dtype: of the weights, or of what is left unquantized.
        device: where the model goes, unless `device_map` says it.
        device_map: over which devices the weights of a folder are spread.

    Raises:
        UsageError: an architecture transformers does not know, a quantization that is not installed or not the
            stored one, or a device map that does not fit.
        WeightsError: a folder that holds no loadable causal LM, or tensors that are not the model's.
    """
    if folder is None:
        return _on(_from_architecture(config, dtype), device)
    return _from_folder(folder, config.quantization, dtype, device, device_map)


def converted(
    model: PreTrainedModel,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
    source: str = "the language model",
) -> PreTrainedModel:
    """A loaded model on `device` or spread over several, in 8 or 4 bits where asked.

    Quantizing and spreading are done while weights are read, so the model goes through a folder. Parameters and errors
    are those of `build_language_model`; `source` is where the weights are from, for errors.
    """
    if quantization == "none" and device_map is None:
        return _on(model, device)
    with ExitStack() as stack, quiet():
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_language_model_"))
        model.save_pretrained(folder)
        found = _from_folder(Path(folder), quantization, dtype, device, device_map, source)
        _kept_for(found, stack)
        return found


def from_stored(
    config: LanguageModelConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
) -> PreTrainedModel:
    """The model of 8- or 4-bit `tensors`, as its `state_dict` gave them: they are not quantized again.

    Args:
        config: its architecture holds the `quantization_config`.
        tensors: by name.
        source: where they are from, for errors.
        dtype: of what is not quantized.
        device: where the model goes.
        device_map: or over which devices it is spread.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_language_model_")))
        (folder / "config.json").write_text(json.dumps(config.architecture), encoding="utf-8")
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        found = _from_folder(folder, config.quantization, dtype, device, device_map, source)
        _kept_for(found, stack)
        return found


def described(architecture: Mapping[str, Any]) -> PretrainedConfig:
    """The config of an architecture. Raises UsageError for one that transformers does not know."""
    # an end token that is not named is none: a family's usual one may be any token of this model's tokenizer
    settings = {"eos_token_id": None, **architecture}
    with _understood(architecture):
        return AutoConfig.for_model(settings.pop("model_type", None), **settings)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its embeddings; under a device map that is not where all of it is."""
    embedding = model.get_input_embeddings()
    moved_to = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)  # accelerate's, if it holds them
    return torch.device(embedding.weight.device if moved_to is None else moved_to)  # type: ignore[arg-type]


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


def blocks_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The blocks of a model of transformers, in order; none where they are not known."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only the inputs of the model's blocks for their gradients, and compute the rest again when it is needed.

    Unlike transformers' own, this works in evaluation mode too, in which a frozen model is. Results are the same.

    Raises:
        UsageError: the blocks of the model are not known.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UsageError(f"'gradient_checkpointing': the blocks of {type(model).__name__} are not known; leave it out")
    for block in blocks:
        block.forward = _checkpointed(block.forward)


def position_ids(mask: Tensor) -> Tensor:
    """The positions of a left-padded batch: long[B, L] from a mask [B, L], counting real tokens only.

    GPT-2 numbers positions from the left edge otherwise, padding included, and its logits are wrong.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def computed_again(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        return checkpoint(forward, *args, use_reentrant=False, **options)

    return computed_again


def _from_architecture(config: LanguageModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    if config.architecture is None:
        raise UsageError(f"language model {config.name!r} has neither a folder of weights nor an architecture")
    with _understood(config.architecture):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            described(config.architecture), dtype=dtype, trust_remote_code=False
        )
    return _fused(model)


@contextmanager
def _understood(architecture: Mapping[str, Any]) -> Iterator[None]:
    """Say of an error what it is about."""
    try:
        yield
    except (ValueError, TypeError) as error:
        reason, model_type = str(error).splitlines()[0], architecture.get("model_type")
        raise UsageError(f"language_model.architecture with model_type {model_type!r}: {reason}") from error


def _from_folder(
    folder: Path,
    asked: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
    source: str | None = None,
) -> PreTrainedModel:
    source = source or str(folder)
    with ExitStack() as stack:
        options = quantizing(folder, asked, dtype, device, source)
        if device_map is not None:
            offloaded = stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_offload_"))
            options |= {**device_map.options(folder), "offload_folder": offloaded}
        model = load_folder(AutoModelForCausalLM, folder, "causal language model", source, dtype=dtype, **options)
        _kept_for(model, stack)
    # generation_config.json may name end tokens that config.json does not; kept here they reach every checkpoint
    if model.generation_config is not None and model.generation_config.eos_token_id is not None:
        model.config.eos_token_id = model.generation_config.eos_token_id
    if "device_map" not in options:
        model.to(device)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    return _fused(model)


def _fused(model: PreTrainedModel) -> PreTrainedModel:
    """The model with torch's own GELU for GPT-2's, which transformers writes out in eight passes over memory."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def _kept_for(model: PreTrainedModel, stack: ExitStack) -> None:
    """Keep temporary folders for as long as the model lives, if it reads weights from them (`disk` of a device map)."""
    if "disk" in getattr(model, "hf_device_map", {}).values():
        weakref.finalize(model, stack.pop_all().close)


def _on(model: nn.Module, device: torch.device | str) -> PreTrainedModel:
    model.to(device).eval()
    assert isinstance(model, PreTrainedModel)
    return model
