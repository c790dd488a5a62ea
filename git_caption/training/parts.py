"""The parts of a training run, built from its parameters: new, from weights, frozen or trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from git_caption.captioner import hub
from git_caption.captioner.checkpoint import weights_sha256
from git_caption.images.transform import Transform
from git_caption.model import language
from git_caption.model.clip_text import ClipText
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import ImageEncoder, build_image_encoder
from git_caption.params.model import CaptionerConfig, TransformConfig, WeightsSource
from git_caption.params.training import TrainingParams
from git_caption.samples.training_tsv import Texts, TrainingTsv
from git_caption.text.prompts import render
from git_caption.text.tokenizer import load_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Parts:
    """A network to train, its tokenizer, and the config of the checkpoint it becomes."""

    network: GitNetwork
    tokenizer: PreTrainedTokenizerBase
    config: CaptionerConfig


def open_samples(params: TrainingParams) -> TrainingTsv:
    """The training data of a run."""
    transform = Transform(params.input_resolution)
    return TrainingTsv(params.image_tsv, params.caption_tsv, params.question_tsv, transform)


def build_parts(params: TrainingParams, samples: TrainingTsv, device: torch.device) -> Parts:
    """The network of a caption run; what is not trained is frozen and referred to by its source."""
    tokenizer = build_tokenizer(params, samples)
    image_encoder, encoder_source = _image_encoder(params)
    language_model, language_source, architecture = _language_model(params, len(tokenizer), tokenizer, device)
    pooled = params.image_encoder.output == "pooled"
    mapper = build_mapper(params.mapper, image_encoder.width, language.width(language_model), pooled)
    network = GitNetwork(image_encoder, mapper, language_model).to(device)
    _set_trained(image_encoder, params.train_image_encoder)
    _set_trained(language_model, params.train_language_model)
    config = CaptionerConfig(
        image_encoder=replace(params.image_encoder, weights=encoder_source),
        mapper=params.mapper,
        language_model=replace(params.language_model, weights=language_source, architecture=architecture),
        transform=TransformConfig(params.input_resolution, params.mean, params.std),
        prompt=params.prompt,
        decoding=params.decoding,
    )
    return Parts(network, tokenizer, config)


def build_clip(
    params: TrainingParams, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[ImageEncoder, ClipText]:
    """A new image encoder and the text tower it is trained against."""
    image_encoder, _ = _image_encoder(params)
    text = params.clip_text
    tower = ClipText(text.width, text.layers, text.heads, text.context, len(tokenizer), image_encoder.width)
    return image_encoder.to(device), tower.to(device)


def build_tokenizer(params: TrainingParams, samples: TrainingTsv) -> PreTrainedTokenizerBase:
    """The language model's tokenizer, or one trained on all texts of the data where the model is new."""
    if not params.starts_from_nothing():
        return load_tokenizer(hub.resolve_language_model(params.language_model.name))
    texts = (text for row in samples.all_texts() for text in _as_trained(row, params))
    return train_bpe(texts, params.vocab_size, Path(params.output_dir) / "tokenizer")


def _as_trained(row: Texts, params: TrainingParams) -> list[str]:
    """A row's texts as the language model will meet them."""
    asked = [
        f"{render(params.prompt.question, question.question)} {answer}"
        for question in row.questions
        for answer in question.answers
    ]
    return [f"{params.prompt.caption} {caption}".strip() for caption in row.captions] + asked


def _image_encoder(params: TrainingParams) -> tuple[ImageEncoder, WeightsSource | None]:
    """The encoder and, where it stays as it is, the source that the checkpoint refers to."""
    config = params.image_encoder
    if config.weights is None and config.architecture is not None:
        return build_image_encoder(config, None, params.input_resolution), None
    source = config.weights or WeightsSource(config.name)
    weights = hub.resolve_encoder(source.id, source.revision)
    image_encoder = build_image_encoder(config, weights, params.input_resolution)
    if params.train_image_encoder:
        return image_encoder, None
    return image_encoder, replace(source, sha256=weights_sha256(weights))


def _language_model(
    params: TrainingParams, vocabulary: int, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[PreTrainedModel, WeightsSource | None, dict[str, object] | None]:
    """The language model, its source where it stays as it is, and its architecture where it is stored."""
    config = params.language_model
    if config.architecture is not None:
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        architecture = {**config.architecture, "vocab_size": vocabulary, **ends}
        model = build_language_model(replace(config, architecture=architecture), None, torch.float32, device)
        return model, None, architecture
    folder = hub.resolve_language_model(config.name)
    model = build_language_model(config, folder, torch.float32, device)
    if params.train_language_model:
        return model, None, None
    return model, WeightsSource(config.name, sha256=weights_sha256(folder)), None


def _set_trained(part: nn.Module, trained: bool) -> None:
    for parameter in part.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(trained)
