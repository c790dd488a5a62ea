"""The parts of a training run, built from its parameters: new, from weights, frozen or trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from git_caption.captioner import checkpoint
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.feature_origin import feature_origins
from git_caption.errors import UsageError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.model.build import build_network
from git_caption.model.device_map import DeviceMap
from git_caption.model.git import GitNetwork
from git_caption.model.language import checkpoint_blocks, context_length
from git_caption.model.mixing import NO_IMAGES, MixedMapper
from git_caption.model.vision import ImageEncoder
from git_caption.params.decoding import DecodingParams
from git_caption.params.device_split import DeviceSplit, read_split
from git_caption.params.model import (
    CaptionerConfig,
    EncoderConfig,
    MapperConfig,
    PromptConfig,
    TransformConfig,
)
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.steps import ComputingParams
from git_caption.params.training.tuning import TuningParams
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.features import FeatureCache
from git_caption.samples.joint_features import JointFeatures
from git_caption.samples.training_data import TrainingData
from git_caption.text.prompts import prompt_ids
from git_caption.training.mixed import Sources, stored_sources
from git_caption.training.single_parts import (
    build_tokenizer,
    cross_attention_of,
    image_encoder_of,
    language_model_of,
    transform_of,
)
from git_caption.training.tuning import finish, prepare

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Parts:
    """A network to train, its tokenizer, and the config of the checkpoint it becomes."""

    network: GitNetwork
    tokenizer: PreTrainedTokenizerBase
    config: CaptionerConfig

    @property
    def prompt(self) -> PromptConfig:
        """The templates of prompts."""
        return self.config.prompt

    @property
    def special_tokens(self) -> bool:
        """A language model reads a prompt with those of its tokenizer."""
        return True

    @property
    def pixels(self) -> TransformConfig | None:
        """How pixels are normalised; None where stored prefixes are mixed, for which no picture is looked at."""
        return None if self.config.mixes_stored else self.config.joint_transform

    @property
    def reader(self) -> ImageReader | None:
        """From an image file to pixels; None where no picture is looked at."""
        if self.config.mixing is not None and not self.config.mixes_stored:
            return self.captioner.reader
        return None if self.pixels is None else reader_of(self.pixels)

    @property
    def captioner(self) -> Captioner:
        """The captioner in its present state."""
        return Captioner(self.config, self.network, self.tokenizer)

    @property
    def room(self) -> int | None:
        """The positions of the language model that the prefix leaves; None where there is no bound."""
        positions = context_length(self.network.language_model)
        return None if positions is None else positions - self._before

    @property
    def _before(self) -> int:
        """The rows that stand before a text: those of the prefix, or a start token."""
        mapper, config = self.network.mapper, self.config.mapper
        if mapper is None or config is None:
            return 1
        if isinstance(mapper, MixedMapper):
            return mapper.length
        return self.network.image_encoder.tokens if mapper.keeps_rows else config.prefix_length

    def check_features(
        self, features: FeatureCache | JointFeatures | ClipCapPickle, params: TrainingParams, data: TrainingData
    ) -> None:
        """Refuse features that are not what the image encoder gives for the data; see `check_features`."""
        check_features(features, self, params, data)

    def save(self, params: TuningParams, out: Path) -> None:
        """Write a checkpoint."""
        checkpoint.save(finish(self.network, self.config, params), self.network, self.tokenizer, out)


def reader_of(pixels: TransformConfig) -> ImageReader:
    """From an image file to pixels as a transform says."""
    return ImageReader(Transform(pixels.resolution, pixels.interpolation, pixels.resize), pixels.exif)


def build_parts(params: TrainingParams, data: TrainingData, device: torch.device) -> Parts:
    """The network of a caption run; what is not trained is frozen and referred to by its source."""
    parts = _continued(params, device) if params.parts.init_from is not None else _new(params, data, device)
    prompt_ids(parts.tokenizer, parts.config.prompt, "")  # a tokenizer without a chat template says so now
    _require_weights_at_hand(parts, params)
    config = prepare(parts.network, parts.config, params.tuning, params.parts.init_from or "this run")
    if params.computing.gradient_checkpointing:
        checkpoint_blocks(parts.network.language_model)
        if parts.network.cross_attention is not None:
            checkpoint_blocks(parts.network.cross_attention)
    if params.computing.compile:
        parts.network.compile_for_training()
    return replace(parts, config=config)


def check_features(
    features: FeatureCache | JointFeatures | ClipCapPickle, parts: Parts, params: TrainingParams, data: TrainingData
) -> None:
    """Refuse features that are not what the run's image encoder gives for the data.

    A pickle of ClipCap's does not say what it was made with: its width has to do.

    Raises:
        UsageError: another image encoder, other preprocessing or other files; or a width that does not fit.
    """
    encoder, config = parts.network.image_encoder, parts.config
    if not isinstance(features, ClipCapPickle):
        if features.holds_prefixes and not config.mixes_stored:
            listed = ", ".join(map(str, features.files))
            raise UsageError(f"{listed}: holds prefixes, which the mapper that is trained makes: expected features")
        features.check_origins(feature_origins(config, params.parts.initial), "this run")
        features.check_inputs(data.inputs)
    elif config.image_encoder.output != "pooled":
        raise UsageError(f"{features.path}: holds pooled features; set 'image_encoder.output' to pooled")
    if isinstance(features, JointFeatures):
        _check_shapes(features, parts)
    elif features.width != encoder.width:
        raise UsageError(
            f"{features.path}: its features have a width of {features.width}, those of image encoder "
            f"{config.image_encoder.name!r} one of {encoder.width}; expected features of that encoder"
        )


def _check_shapes(features: JointFeatures, parts: Parts) -> None:
    """Raise UsageError where an image encoder, or the language model, is of another width than its stored rows."""
    mapper = parts.network.mapper
    assert isinstance(mapper, MixedMapper), "as many encoders as files"
    for cache, (rows, wide) in zip(features.caches, mapper.shapes, strict=True):
        if (cache.tokens, cache.width) != (rows, wide):
            language_model = f" language model {parts.config.language_model.name!r} has a width of {wide}:"
            raise UsageError(
                f"{cache.path}: {cache.tokens} rows of width {cache.width};"
                f"{language_model if parts.config.mixes_stored else ''} expected {rows} of width {wide}"
            )


def _continued(params: TrainingParams, device: torch.device) -> Parts:
    """The parts of a checkpoint; a part that is trained now is stored from now on, not referred to."""
    told, tuning = params.parts, params.tuning
    assert told.initial is not None, "asked by the caller"
    captioner = Captioner.load(
        told.initial.path,
        **told.initial.told,
        device=str(device),
        dtype="float32",
        device_map=_device_map(params.computing),
        max_memory=params.computing.max_memory,
        prompted=False,
    )
    config, network = captioner.own_parts()
    if any(encoder.transform.resize == "keep" for encoder in config.encoders):
        raise UsageError(
            f"{told.init_from}: its transform keeps the shape of images ('resize': 'keep'), and training takes "
            "squares; set 'resize' in its config.json to 'crop' or 'squash'"
        )
    sets = (params.dataset, params.validation.dataset(params.dataset))
    if config.mixes_stored and not all(one.stored for one in sets if one is not None):
        raise UsageError(f"{told.init_from}: {NO_IMAGES} ('val_features' in a validation set)")
    if tuning.train_image_encoder:
        if config.mixes_stored:
            raise UsageError(f"'train_image_encoder': {told.init_from} has none, for it mixes stored prefixes")
        config = config.holding_encoders()
    if tuning.changes_language_model:
        config = replace(config, language_model=replace(config.language_model, weights=None))
    config = replace(config, prompt=told.prompt or config.prompt, decoding=told.decoding or config.decoding)
    return Parts(network, captioner.tokenizer, config)


def _new(params: TrainingParams, data: TrainingData, device: torch.device) -> Parts:
    """Parts that are each new or from weights of their own."""
    told, tuning = params.parts, params.tuning
    assert told.language_model is not None, "checked with the parameters"
    tokenizer = build_tokenizer(told, data)
    cross_attention = cross_attention_of(params, tokenizer)
    sources, encoders = _sources(params)
    modules = _device_map(params.computing)
    device_map = None if modules is None else DeviceMap(modules, params.computing.max_memory)
    language_model, language_config = language_model_of(
        told.language_model, tokenizer, device, device_map, trained=tuning.changes_language_model
    )
    config = CaptionerConfig(
        image_encoder=sources.encoders[0].image_encoder,
        language_model=language_config,
        mapper=None if params.fusion.crosses else sources.mapper,
        fusion=params.fusion.fusion,
        cross_attention=cross_attention,
        transform=sources.encoders[0].transform,
        mixing=sources.mixed_by(told.mixing),
        prompt=told.prompt or PromptConfig(),
        decoding=told.decoding or DecodingParams(),
    )
    network = build_network(config, encoders, language_model)
    network.place(device)
    return Parts(network, tokenizer, config)


def _device_map(params: ComputingParams) -> str | Mapping[str, int | str] | DeviceSplit | None:
    """How the language model is spread over devices; None where it is on one."""
    return params.device_map if params.device_split is None else read_split(params.device_split)


def _require_weights_at_hand(parts: Parts, params: TrainingParams) -> None:
    """Refuse to train or to store a language model of which a device map leaves weights on CPU memory or the disk.

    Raises:
        UsageError: it is trained, or the checkpoint is to hold it.
    """
    away = [name for name, tensor in parts.network.language_model.named_parameters() if tensor.is_meta]
    if not away:
        return
    told = params.computing.spreads or "device_map"
    left = f"{told!r}: {away[0]} and {len(away) - 1} more tensors of the language model are offloaded"
    if params.tuning.changes_language_model:
        raise UsageError(f"{left}, and cannot be trained there: give it more devices or memory, or set 'tune': 'lora'")
    if params.tuning.lora_dora:
        raise UsageError(f"{left}, and 'lora_dora' begins with them: give it more devices or memory, or leave it out")
    if parts.config.language_model.weights is None:
        raise UsageError(f"{left}, and the checkpoint is to store it: only one that it refers to can be offloaded")


def _sources(params: TrainingParams) -> tuple[Sources, list[ImageEncoder]]:
    """What prefixes are made from, and the image encoders; none where prefixes are stored."""
    told = params.parts
    if told.mixes_stored:
        first = params.dataset.sets[0].features  # those of other data sets have to be of the same captioners
        assert first is not None, "checked with the parameters"
        return stored_sources(first), []
    described, encoders = [], []
    for one in told.image_encoders:
        transform = transform_of(one, told)
        encoder, source = image_encoder_of(one, transform.resolution, trained=params.tuning.train_image_encoder)
        described.append(EncoderConfig(replace(one, weights=source), transform))
        encoders.append(encoder)
    return Sources(described, told.mapper or MapperConfig("linear")), encoders
