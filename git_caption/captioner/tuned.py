"""Pretrained captioners that were trained further: their checkpoints, and plain folders of transformers made of them.

A checkpoint refers to the captioner that it was trained from, by id and sha256; what was trained since is in
model.safetensors, by the names that transformers gives it, and LoRA on the decoder in adapter/.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from git_caption.captioner import checkpoint, checkpoint_folder, stored_tensors
from git_caption.captioner.adapter_files import write_adapter
from git_caption.captioner.repository_files import describing_files
from git_caption.errors import WeightsError
from git_caption.model.adapters import merge_adapter, without_adapter
from git_caption.model.folder import quiet
from git_caption.params.json_file import read_object
from git_caption.params.pretrained import DefaultsConfig, TunedConfig
from git_caption.params.schema import read, to_dict

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from git_caption.model.pretrained_network import PretrainedNetwork

DEFAULTS = "captioner.json"  # beside the files of transformers: prompt and decoding, for which these have no place


def load_config(folder: Path) -> TunedConfig:
    """Read the config.json of a checkpoint strictly.

    Raises:
        WeightsError: keys or values this version does not know; all listed.
    """
    config, faults = read(TunedConfig, checkpoint_folder.read_json(folder), str(folder / checkpoint_folder.CONFIG))
    if config is None:
        raise WeightsError("; ".join(faults))
    return config


def load_defaults(folder: Path) -> DefaultsConfig | None:
    """How the captioner in a plain folder is used, where an export has noted it. Raises as `load_config`."""
    if not (folder / DEFAULTS).is_file():
        return None
    config, faults = read(DefaultsConfig, read_object(folder / DEFAULTS), str(folder / DEFAULTS))
    if config is None:
        raise WeightsError("; ".join(faults))
    return config


def tensors_of(config: TunedConfig, network: PretrainedNetwork) -> list[tuple[list[str], Tensor]]:
    """What model.safetensors holds: (names of tied tensors, sorted; the tensor), in order of the first names."""
    tensors = without_adapter(network.model.state_dict())
    parts = [part for part in network.modules_of if part in config.stored]
    own = {name: tensor for name, tensor in tensors.items() if any(network.is_in(name, part) for part in parts)}
    return stored_tensors.tied(own)


def save(config: TunedConfig, network: PretrainedNetwork, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a checkpoint, or replace the one in `folder`; killed at any moment, the old or the new one is there."""
    with checkpoint_folder.replaced(folder) as new:
        checkpoint.write_config(replace(config, versions=checkpoint.versions()), new)
        tokenizer.save_pretrained(new / checkpoint_folder.TOKENIZER)
        checkpoint.write_weights(tensors_of(config, network), new)
        if config.adapter is not None:
            write_adapter(network.adapted, None, new / checkpoint_folder.ADAPTER)


def save_whole(network: PretrainedNetwork, base: Path, defaults: DefaultsConfig, folder: Path) -> None:
    """Write a folder that transformers reads by itself; config.json, which makes it one, comes last.

    Args:
        network: LoRA on it is merged into its weights.
        base: the captioner it was trained from, whose tokenizer and image processor stay as they are.
        defaults: how it is used.
        folder: made where it is not there.
    """
    if hasattr(network.adapted, "peft_config"):
        merge_adapter(network.adapted)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving", dir=folder) as name:
        new = Path(name)
        for described, file in describing_files(base):
            (new / described).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, new / described)
        (new / DEFAULTS).write_text(json.dumps(to_dict(defaults), indent=2) + "\n", encoding="utf-8")
        with quiet():
            network.model.save_pretrained(new)
        written = [path for path in new.rglob("*") if path.is_file()]
        for path in written:
            shutil.copymode(new / DEFAULTS, path)  # safetensors writes for the owner alone, whatever the umask
        for path in sorted(written, key=lambda path: path.name == checkpoint_folder.CONFIG):
            target = folder / path.relative_to(new)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
