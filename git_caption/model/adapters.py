"""LoRA on the language model, by peft: small matrices that are trained beside its frozen linear layers.

The layers are replaced in place, so that the language model stays the one that all others call; `without_adapter` gives
its own tensors by their own names.

LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/2106.09685; DoRA,
https://arxiv.org/abs/2402.09353; on weights in 4 bits QLoRA, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.import_utils import is_peft_available

from git_caption.errors import UsageError, WeightsError
from git_caption.model.weights import faults

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    from git_caption.params.model import AdapterConfig

OF_PEFT = "base_model.model."  # before the names of an adapter's tensors, where peft writes them
OWN = re.compile(r"\.lora_")  # in the names of what an adapter adds to the model
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # in the names of attention layers, of every family


def add_adapter(model: nn.Module, config: AdapterConfig) -> None:
    """Put a new adapter on the model, which computes what it computed before until the adapter is trained or loaded.

    Raises:
        UsageError: peft is not installed, or the model has no layers of the kind that `config.targets` names.
    """
    _require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type] # peft scales by any number
            lora_dropout=config.dropout,
            use_dora=config.dora,
            target_modules=targets(model, config.targets),
            fan_in_fan_out=any(isinstance(layer, Conv1D) for _, layer in _linear_layers(model)),
            task_type="CAUSAL_LM",
        ),
        model,
    )
    for layer in adapted_layers(model):
        _place(layer)
    model.train(model.training)  # the new modules too


def targets(model: nn.Module, wanted: str) -> str:
    r"""A pattern of the full names of the linear layers in the model's blocks that are wanted.

    Layers outside of the blocks, embeddings and the output head among them, are not named.

    Args:
        model: whose blocks.
        wanted: `attention`, `feed_forward`, `both`, or what layers are called (`q_proj`); several with commas.

    Example, `attention` of LLaMA: `model\.layers\.\d+\.self_attn\.q_proj|...`.

    Raises:
        UsageError: there are none of a kind or name that is wanted.
    """
    names = [name for name, _ in _linear_layers(model) if any(map(str.isdigit, name.split(".")))]
    chosen: list[str] = []
    for kind in (kind.strip() for kind in wanted.split(",")):
        found = [name for name in names if _is_of(name, kind)]
        if not found:
            called = ", ".join(sorted({name.rpartition(".")[2] for name in names})) or "none"
            raise UsageError(
                f"'lora_targets': the blocks of {type(model).__name__} have no linear layers {kind!r}; expected "
                f"attention, feed_forward, both, or names of layers (known: {called})"
            )
        chosen += found
    return "|".join(dict.fromkeys(map(_numbered, chosen)))


def _is_of(name: str, kind: str) -> bool:
    """Whether a layer in a block is of a kind, or is called by it."""
    if kind in ("attention", "feed_forward"):
        return bool(ATTENTION.search(name)) == (kind == "attention")
    return kind in ("both", name.rpartition(".")[2])


def adapter_config(model: nn.Module) -> LoraConfig:
    """What peft knows of the model's adapter."""
    found: LoraConfig
    (found,) = model.peft_config.values()  # type: ignore[operator]
    return found


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by the names that peft gives them in `adapter_model.safetensors`."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {OF_PEFT + name: tensor for name, tensor in found.items()}


def load_adapter(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors, named as `adapter_tensors` names them, into the model's adapter, which must have exactly these.

    Raises:
        WeightsError: missing, unexpected or misshapen tensors, listed together.
    """
    own = adapter_tensors(model)
    if found := faults(own, tensors):
        raise WeightsError(f"{source} does not fit the language model: {found}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def merge_adapter(model: nn.Module) -> None:
    """Add the adapter to the model's weights and take it off; weights in 8 or 4 bits have no room for it."""
    names = {module: name for name, module in model.named_modules()}
    for layer in list(adapted_layers(model)):
        layer.merge()
        model.set_submodule(names[layer], layer.get_base_layer())
    del model.peft_config


def without_adapter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model's `state_dict` that are not its adapter's, by the names they have without one."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if not OWN.search(name)}


def adapted_layers(model: nn.Module) -> Iterator[BaseTunerLayer]:
    """The layers that an adapter stands beside; none where there is no adapter."""
    if not hasattr(model, "peft_config"):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    yield from (module for module in model.modules() if isinstance(module, BaseTunerLayer))


def _require_peft() -> None:
    if not is_peft_available():
        raise UsageError("LoRA needs peft: pip install 'git-caption[lora]'")


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those of full precision and of 8 and 4 bits, with their names."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)))


def _numbered(name: str) -> str:
    """A pattern of the name with any numbers in the place of its own."""
    return r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in name.split("."))


def _place(layer: Any) -> None:
    """Move an adapter to where its layer computes; under a device map that is not where its weights are."""
    device = getattr(getattr(layer.get_base_layer(), "_hf_hook", None), "execution_device", None)
    if device is None:
        return
    parts = (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    offloaded = any(parameter.is_meta for part in parts for parameter in part.parameters())
    for part in parts:
        if offloaded:
            part.to_empty(device=device)
        else:
            part.to(device)
    if offloaded:
        for name in layer.lora_A:
            layer.reset_lora_parameters(name, init_lora_weights=True)  # as peft does where weights are at hand
