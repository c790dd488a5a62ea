"""Single parts of a training run, each new or from weights of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from git_caption.captioner import hub, weight_sources
from git_caption.errors import UsageError
from git_caption.model.clip_text import ClipText
from git_caption.model.device_map import DeviceMap
from git_caption.model.folder import architecture_of
from git_caption.model.language import build_language_model, converted, described
from git_caption.model.quantization import quantization_of
from git_caption.model.vision import ImageEncoder, build_image_encoder, encoder_transform
from git_caption.params.model import (
    CrossAttentionConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    PromptConfig,
    TransformConfig,
    WeightsSource,
)
from git_caption.params.training.parts import PartsParams
from git_caption.params.training.run import TrainingParams
from git_caption.samples.training_data import Texts, TrainingData
from git_caption.text.prompts import render
from git_caption.text.tokenizer import load_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def transform_of(encoder: ImageEncoderConfig, params: PartsParams) -> TransformConfig:
    """From picture to pixels, as the image encoder takes them."""
    return encoder_transform(encoder, _encoder_weights(encoder), params.input_resolution)


def build_clip(
    params: PartsParams, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[ImageEncoder, ClipText]:
    """A new image encoder and the text tower it is trained against."""
    assert params.image_encoder is not None, "checked with the parameters"
    resolution = transform_of(params.image_encoder, params).resolution
    image_encoder, _ = image_encoder_of(params.image_encoder, resolution, trained=True)
    text = params.clip_text
    tower = ClipText(text.width, text.layers, text.heads, text.context, len(tokenizer), image_encoder.width)
    return image_encoder.to(device), tower.to(device)


def build_language(
    params: PartsParams, data: TrainingData, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model to train by itself, new or from weights, and its tokenizer."""
    assert params.language_model is not None, "checked with the parameters"
    tokenizer = build_tokenizer(params, data)
    model, config = language_model_of(params.language_model, tokenizer, device, trained=True)
    if config.quantization != "none":
        raise UsageError(f"'language_model': {config.name} is in {config.quantization} and cannot be trained")
    return model, tokenizer


def build_tokenizer(params: PartsParams, data: TrainingData) -> PreTrainedTokenizerBase:
    """The language model's tokenizer, or one trained on all texts of the data where the model is new."""
    if params.language_model is not None and params.language_model.architecture is None:
        source = _source(params.language_model)
        return load_tokenizer(hub.resolve_language_model(source.id, source.revision))
    prompt = params.prompt or PromptConfig()
    texts = (text for row in range(len(data)) for text in _as_trained(data.texts(row), prompt))
    with TemporaryDirectory(prefix="git_caption_tokenizer_") as folder:
        return train_bpe(texts, params.vocab_size, Path(folder))


def _as_trained(row: Texts, prompt: PromptConfig) -> list[str]:
    """A row's texts as the language model will meet them."""
    asked = [
        f"{render(prompt.question, question.question)} {answer}"
        for question in row.questions
        for answer in question.answers
    ]
    return [f"{prompt.caption} {caption}".strip() for caption in row.captions] + asked


def cross_attention_of(params: TrainingParams, tokenizer: PreTrainedTokenizerBase) -> CrossAttentionConfig | None:
    """Where the new layers of a run go, known before any weight is loaded; None where it has a prefix.

    A text without a prompt begins as the language model's own documents do: with the begin token, or with the end token
    of the document before it where there is none.

    Raises:
        UsageError: the language model has fewer blocks.
    """
    language_model = params.parts.language_model
    if not params.fusion.crosses or language_model is None:
        return None
    architecture = language_model.architecture
    if architecture is None:
        source = _source(language_model)
        folder = hub.resolve_language_model(source.id, source.revision)
        architecture = architecture_of(folder, "causal language model")
    settings = described(architecture).get_text_config()
    blocks = params.fusion.blocks(settings.num_hidden_layers)
    if max(blocks) >= settings.num_hidden_layers:
        raise UsageError(
            f"'nb_ca': {len(blocks)} layers reach to block {max(blocks)}, and {language_model.name} has "
            f"{settings.num_hidden_layers} blocks, counted from 0; ask for fewer"
        )
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return CrossAttentionConfig(tuple(blocks), settings.num_attention_heads, int(start))


def image_encoder_of(
    config: ImageEncoderConfig, resolution: int, *, trained: bool
) -> tuple[ImageEncoder, WeightsSource | None]:
    """The encoder and, where it stays as it is, the source that the checkpoint refers to."""
    source, weights = _source(config), _encoder_weights(config)
    if weights is not None:
        weight_sources.check_source(source, weights)
    image_encoder = build_image_encoder(config, weights, resolution)
    if trained or weights is None:
        return image_encoder, None
    return image_encoder, replace(source, sha256=weight_sources.weights_sha256(weights))


def _encoder_weights(config: ImageEncoderConfig) -> Path | None:
    """The weights that the encoder starts from; None where an architecture is to be new."""
    if config.weights is None and config.architecture is not None:
        return None
    source = _source(config)
    return hub.resolve_encoder(source.id, source.revision)


def _source(config: ImageEncoderConfig | LanguageModelConfig) -> WeightsSource:
    """Where a part that is not new starts from: what `weights` says, else its name."""
    return config.weights or WeightsSource(config.name)


def language_model_of(
    config: LanguageModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    device_map: DeviceMap | None = None,
    *,
    trained: bool,
) -> tuple[PreTrainedModel, LanguageModelConfig]:
    """The language model and its config: with its architecture where it is new, its source where it stays as it is."""
    if config.architecture is not None:
        vocabulary = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        config = replace(config, architecture={**config.architecture, **vocabulary})
        model = build_language_model(config, None, torch.float32, "cpu")
        return converted(model, "none", torch.float32, device, device_map), config
    source = _source(config)
    folder = hub.resolve_language_model(source.id, source.revision)
    weight_sources.check_source(source, folder)
    model = build_language_model(config, folder, torch.float32, device, device_map)
    held = quantization_of(model.config.to_diff_dict())
    kept = None if trained else replace(source, sha256=weight_sources.weights_sha256(folder))
    return model, replace(config, weights=kept, quantization=held)
