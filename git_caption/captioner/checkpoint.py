"""A checkpoint directory: config.json, model.safetensors, tokenizer/, adapter/, replaced together and loaded exactly.

What was trained is in model.safetensors under `image_encoder.`, `mapper.`, `cross_attention.`, `language_model.` and
`temporal.`, LoRA on the language model in adapter/, a base captioner in base/, a checkpoint itself; a frozen part is a
source (hub id or path, revision, sha256) in config.json instead. Other files of the folder are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from git_caption.captioner import stored_tensors
from git_caption.captioner.adapter_files import write_adapter
from git_caption.captioner.checkpoint_folder import (
    ADAPTER,
    BASE,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    current,
    read_json,
    replaced,
)
from git_caption.errors import WeightsError
from git_caption.params.model import CaptionerConfig
from git_caption.params.pretrained import TunedConfig
from git_caption.params.schema import read, to_dict

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from git_caption.model.git import GitNetwork

VERSIONED = {"torch": "torch", "transformers": "transformers", "open_clip": "open_clip_torch"}


def save(
    config: CaptionerConfig,
    network: GitNetwork,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    save_base: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint, or replace the one in `folder`; killed at any moment, the old or the new one is there.

    Args:
        config: what the network was built from; parts whose `weights` is None are stored, the others referred to.
            Architectures of stored parts and the library versions are filled in; a language model in 8 or 4 bits is
            stored in these, to be loaded again as it is.
        network: the trained network, with an adapter on its language model where `config.adapter` tells of one.
        tokenizer: the language model's.
        folder: made where it is not there.
        save_base: writes the base captioner as a checkpoint, where `config.base` tells of one without a source.
    """
    config = _completed(config, network)
    with replaced(folder) as new:
        write_config(config, new)
        tokenizer.save_pretrained(new / TOKENIZER)
        write_weights(stored_tensors.of(config, network), new)
        if config.adapter is not None:
            write_adapter(network.language_model, config.language_model.weights, new / ADAPTER)
        if config.base is not None and config.base.source is None:
            assert save_base is not None, "a base captioner without a source is stored"
            save_base(new / BASE)


def write_config(config: CaptionerConfig | TunedConfig, new: Path) -> None:
    """Write config.json into a new checkpoint."""
    text = json.dumps(to_dict(config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (new / CONFIG).write_text(text, encoding="utf-8")


def write_weights(tensors: Iterable[tuple[list[str], Tensor]], new: Path) -> None:
    """Write model.safetensors into a new checkpoint: of tied tensors under the first of their names."""
    from safetensors.torch import save_file

    named = {names[0]: tensor.detach().cpu().contiguous() for names, tensor in tensors}
    save_file(named, new / WEIGHTS, metadata={"format": "pt"})


def load_config(folder: Path) -> CaptionerConfig:
    """Read config.json strictly.

    Raises:
        WeightsError: it is not there, is not JSON, or has keys or values this version does not know; all listed.
    """
    content = read_json(folder)
    config, faults = read(CaptionerConfig, content, str(folder / CONFIG))
    if config is None:
        raise WeightsError("; ".join(faults))
    return config


def read_weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of model.safetensors whose names start with one of `prefixes`.

    Raises:
        WeightsError: it is not there or not readable.
    """
    from git_caption.model.weights import read_tensors

    path = current(folder, WEIGHTS)
    if not path.is_file():
        raise WeightsError(f"{folder}: no {WEIGHTS} beside {CONFIG}; the checkpoint is incomplete")
    return read_tensors(path, prefixes)


def versions() -> dict[str, str]:
    """Of the libraries that write a checkpoint."""
    return {name: version(package) for name, package in VERSIONED.items()}


def _completed(config: CaptionerConfig, network: GitNetwork) -> CaptionerConfig:
    from git_caption.model.quantization import quantization_of

    language_model = config.language_model
    if language_model.weights is None:
        described = network.language_model.config.to_diff_dict()
        language_model = replace(language_model, architecture=language_model.architecture or described)
        if (bits := quantization_of(described)) != "none":
            held = {**(language_model.architecture or {}), "quantization_config": described["quantization_config"]}
            language_model = replace(language_model, architecture=held, quantization=bits)
    image_encoders = [
        replace(described, architecture=encoder.architecture)
        if described.weights is None and described.architecture is None
        else described
        for _, encoder, described in stored_tensors.encoders(config, network)
    ]
    return replace(config.with_encoders(image_encoders), language_model=language_model, versions=versions())
