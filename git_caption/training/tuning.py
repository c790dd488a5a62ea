"""What of a network is trained, from the first step to what is stored at the end."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from git_caption.errors import UsageError
from git_caption.model.adapters import OWN, add_adapter, merge_adapter
from git_caption.model.git import GitNetwork
from git_caption.params.model import CaptionerConfig
from git_caption.params.training.run import QUANTIZED
from git_caption.params.training.tuning import TuningParams


def prepare(network: GitNetwork, config: CaptionerConfig, params: TuningParams, source: str) -> CaptionerConfig:
    """Freeze what is not trained, put an adapter on where there is to be one; gives the config of the network now.

    An adapter that is there already is trained further (`tune: lora`), kept as it is (`mapper`), or else merged.

    Args:
        network: the parts, all of whose weights are in place.
        config: of the network.
        params: what is trained.
        source: where the network is from, for errors.

    Raises:
        UsageError: weights in 8 or 4 bits were to be changed, or another adapter is there than the one asked for.
    """
    language_model = network.language_model
    if params.changes_language_model and config.language_model.quantization != "none":
        asked = "lora_merge" if params.lora_merge else "tune"
        held = f"{config.language_model.name} is in {config.language_model.quantization}"
        raise UsageError(f"{asked!r}: {held}; {QUANTIZED}")
    adapter = config.adapter
    if params.tune == "lora":
        adapter = params.adapter(config.adapter, source)
        if config.adapter is None:
            add_adapter(language_model, adapter)
    elif params.changes_language_model and adapter is not None:
        merge_adapter(language_model)
        adapter = None
    network.requires_grad_(False)
    for part in network.between.values():
        _train(part, params.mapper_trained)
    _train(network.image_encoder, params.train_image_encoder)
    _train(language_model, params.tune == "full")
    if params.tune == "head":
        language_model.get_output_embeddings().requires_grad_(True)  # type: ignore[no-untyped-call]
    if params.tune == "lora":
        _train_adapter(language_model)
    return replace(config, adapter=adapter)


def finish(network: GitNetwork, config: CaptionerConfig, params: TuningParams) -> CaptionerConfig:
    """Merge the adapter of a trained network where `params` say so; gives the config of the network then."""
    if not params.lora_merge:
        return config
    merge_adapter(network.language_model)
    return replace(config, adapter=None)


def _train(part: nn.Module, trained: bool) -> None:
    for parameter in part.parameters():
        if parameter.is_floating_point():  # those in 8 and 4 bits are not, and take no gradient
            parameter.requires_grad_(trained)


def _train_adapter(language_model: PreTrainedModel) -> None:
    for name, parameter in language_model.named_parameters():
        parameter.requires_grad_(bool(OWN.search(name)))
