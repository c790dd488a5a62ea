"""The `adapter/` folder of a checkpoint: an adapter as peft writes it, beside the language model it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from git_caption.errors import WeightsError
from git_caption.params.json_file import read_object
from git_caption.params.model import AdapterConfig, WeightsSource
from git_caption.params.paths import is_hub_id

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(model: nn.Module, base: WeightsSource | None, folder: Path) -> None:
    """Write the model's adapter into a new folder that peft can load too.

    Args:
        model: with an adapter.
        base: where the model itself is from; a hub id is noted for peft, a path is not, for folders move.
        folder: where to.
    """
    from dataclasses import replace

    from safetensors.torch import save_file

    from git_caption.model.adapters import adapter_config, adapter_tensors

    name = base.id if base is not None and is_hub_id(base.id) else None
    written = replace(adapter_config(model), inference_mode=True, base_model_name_or_path=name)
    written.save_pretrained(str(folder))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def put_adapter(model: nn.Module, config: AdapterConfig, folder: Path) -> None:
    """Put the adapter in `folder` on the model.

    Raises:
        WeightsError: a file that is not there or cannot be read, tensors that are not those of `config` on this model,
            or an adapter_config.json that says otherwise than `config`.
        UsageError: peft is not installed.
    """
    from git_caption.model.adapters import add_adapter, load_adapter
    from git_caption.model.weights import read_tensors

    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise WeightsError(f"{folder}: no {' and no '.join(missing)}; the checkpoint is incomplete")
    said = read_object(folder / CONFIG)
    told = {"r": config.rank, "lora_alpha": config.alpha, "use_dora": config.dora}
    if wrong := [
        f"{name} {said.get(name)!r}, expected {value!r}" for name, value in told.items() if said.get(name) != value
    ]:
        raise WeightsError(
            f"{folder / CONFIG} is not the adapter that the checkpoint's config.json tells of: {'; '.join(wrong)}"
        )
    add_adapter(model, config)
    load_adapter(model, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
