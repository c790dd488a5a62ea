"""A pretrained captioner to train: the decoder by LoRA or in full, its head, its mapper, the image encoder too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from git_caption.captioner import tuned, weight_sources
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.loading import pretrained_folder
from git_caption.captioner.pretrained import PretrainedCaptioner
from git_caption.errors import UsageError
from git_caption.images.reader import ImageReader
from git_caption.model.adapters import OWN, add_adapter, merge_adapter
from git_caption.model.language import checkpoint_blocks
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.params.model import PromptConfig, TransformConfig, WeightsSource
from git_caption.params.pretrained import Part, TunedConfig
from git_caption.params.training.parts import PartsParams
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.tuning import TuningParams
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.features import FeatureCache
from git_caption.samples.joint_features import JointFeatures
from git_caption.samples.training_data import TrainingData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class PretrainedParts:
    """A pretrained captioner, and the config of the checkpoint it becomes; see `Trainable`."""

    captioner: PretrainedCaptioner
    config: TunedConfig

    @property
    def network(self) -> PretrainedNetwork:
        """The captioner's."""
        return self.captioner.network

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The captioner's."""
        return self.captioner.tokenizer

    @property
    def prompt(self) -> PromptConfig:
        """The templates of prompts."""
        return self.config.prompt

    @property
    def special_tokens(self) -> bool:
        """As the captioner was trained with."""
        return self.network.special_tokens

    @property
    def room(self) -> int | None:
        """The positions of the decoder for a prompt and what follows it; None where there is no bound."""
        return self.network.room

    @property
    def pixels(self) -> TransformConfig:
        """How its own image processor normalises."""
        return self.captioner.config.transform

    @property
    def reader(self) -> ImageReader:
        """From an image file to pixels, as its own image processor says."""
        return self.captioner.reader

    def check_features(
        self, features: FeatureCache | JointFeatures | ClipCapPickle, params: TrainingParams, data: TrainingData
    ) -> None:
        """Raises UsageError: they are not stored."""
        raise UsageError("'features': a pretrained captioner is trained from pictures: leave them out")

    def save(self, params: TuningParams, out: Path) -> None:
        """Write a checkpoint, or with LoRA merged a plain folder of transformers."""
        if params.lora_merge:
            self.captioner.tuned = self.config
            self.captioner.save(out)
        else:
            tuned.save(self.config, self.network, self.tokenizer, out)


def named(params: PartsParams) -> str | None:
    """The pretrained captioner, or the checkpoint trained from one, that a run trains; None where it is no such.

    Raises:
        UsageError: a path that is not there.
        WeightsError: a folder that holds no captioner, or a hub id that cannot be had.
    """
    if params.captioner is not None:
        return params.captioner
    initial = params.init_from
    return initial if initial is not None and pretrained_folder(initial) is not None else None


def check_alone(params: TrainingParams) -> None:
    """Refuse what a pretrained captioner is not trained with, before anything is loaded or captioned.

    Raises:
        UsageError: that is asked for, and all that `named` finds.
    """
    asked = params.prompting.prompted or params.computing.spreads or params.computing.fsdp
    if asked and (name := named(params.parts)) is not None:
        raise UsageError(
            f"'init_from': {name} is a pretrained captioner, which is trained whole on one device and without captions "
            "of a base captioner: leave 'prompted', 'device_map', 'device_split' and 'fsdp' out"
        )


def build_pretrained(name: str, params: TrainingParams, device: torch.device) -> PretrainedParts:
    """The captioner of that name, with what is trained now; what is not trained is frozen.

    Raises:
        UsageError: it is none that is trained, has no such part, or has another adapter than the one asked for; or its
            prompts were to be a chat, and it has no template for one.
    """
    captioner = Captioner.load(name, device=str(device), dtype="float32")
    if not isinstance(captioner, PretrainedCaptioner):
        raise UsageError(
            f"{name}: expected a captioner that is trained as it is, a BLIP, BLIP-2, GIT or VisionEncoderDecoder; a "
            "checkpoint of image encoder, mapper and language model is gone on from by 'init_from'"
        )
    told, before = params.parts, captioner.tuned or TunedConfig(_source(name, captioner))
    used = replace(
        captioner.config,
        prompt=told.prompt or captioner.config.prompt,
        decoding=told.decoding or captioner.config.decoding,
    )
    captioner.config = used
    captioner.prompt_ids("")  # a tokenizer without a chat template says so now
    config = replace(before, prompt=used.prompt, decoding=used.decoding)
    config = prepare(captioner.network, config, params.tuning, name)
    if params.computing.gradient_checkpointing:
        checkpoint_blocks(captioner.network.adapted)
    if params.computing.compile:
        captioner.network.compile_for_training()
    return PretrainedParts(captioner, config)


def prepare(network: PretrainedNetwork, config: TunedConfig, params: TuningParams, source: str) -> TunedConfig:
    """Freeze what is not trained, put an adapter on where there is to be one; gives the config of the network now.

    An adapter that is there already is trained further (`tune: lora`), kept as it is (`mapper`), or else merged.

    Args:
        network: all of whose weights are in place.
        config: of the network.
        params: what is trained.
        source: where the network is from, for errors.

    Raises:
        UsageError: the network has no such part, or another adapter than the one asked for.
    """
    parts = _trained_parts(network, params, source)
    stored = {*config.stored, *parts, *(["decoder"] if params.tune == "head" else [])}
    adapter = config.adapter
    if params.tune == "lora":
        adapter = params.adapter(config.adapter, source)
        if config.adapter is None:
            add_adapter(network.adapted, adapter)
    elif params.tune in ("full", "head") and adapter is not None:
        merge_adapter(network.adapted)
        adapter = None
    network.requires_grad_(False)
    for part in parts:
        for _, parameter in network.parameters_of(part):
            parameter.requires_grad_(True)
    if params.tune == "head":
        network.head.requires_grad_(True)
    if params.tune == "lora":
        for name, parameter in network.adapted.named_parameters():
            if OWN.search(name):
                parameter.requires_grad_(True)
    return replace(config, adapter=adapter, stored=tuple(part for part in network.modules_of if part in stored))


def _trained_parts(network: PretrainedNetwork, params: TuningParams, source: str) -> list[Part]:
    """The parts whose own weights are trained, all of them."""
    has_mapper = any(True for _ in network.parameters_of("mapper"))
    asked = params.tune == "mapper" if params.train_mapper is None else params.train_mapper
    if asked and not has_mapper:
        key = "tune" if params.train_mapper is None else "train_mapper"
        raise UsageError(
            f"{key!r}: {source} has no mapper between its image encoder and its decoder: set 'tune' to lora, full or "
            "head, without 'train_mapper'"
        )
    trained: list[Part] = ["image_encoder"] if params.train_image_encoder else []
    if asked or (params.tune == "full" and params.train_mapper is None):
        trained.append("mapper")
    if params.tune == "full":
        trained.append("decoder")
    return [part for part in trained if part != "mapper" or has_mapper]


def _source(name: str, captioner: PretrainedCaptioner) -> WeightsSource:
    assert captioner.folder is not None, "it was loaded"
    return WeightsSource(name, sha256=weight_sources.weights_sha256(captioner.folder))
