"""A small random captioner, built in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from git_caption.captioner.captioner import Captioner
from git_caption.model.adapters import add_adapter
from git_caption.model.build import build_network
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model, width
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import build_image_encoder
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import (
    AdapterConfig,
    CaptionerConfig,
    CrossAttentionConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    TransformConfig,
    WeightsSource,
)
from git_caption.text.tokenizer import load_tokenizer
from tests import hub_cache

ENCODER = ImageEncoderConfig(
    name="custom",
    architecture={
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
    },
    output="pooled",
)


def small_captioner(
    folder: Path,
    family: str = "gpt2",
    mapper: str = "mlp",
    output: str = "pooled",
    seed: int = 0,
    image_encoder: ImageEncoderConfig = ENCODER,
) -> Captioner:
    """A captioner whose texts differ from image to image; its language model is written into `folder` if absent."""
    if not (folder / "config.json").is_file():
        hub_cache.language_model(folder, family)
    torch.manual_seed(seed)
    encoder = build_image_encoder(replace(image_encoder, output=output))
    config = CaptionerConfig(
        image_encoder=replace(image_encoder, output=output),
        mapper=MapperConfig(type=mapper, prefix_length=3, clip_length=2, layers=1, heads=2),
        language_model=LanguageModelConfig(name=family),
        transform=TransformConfig(resolution=32),
        decoding=DecodingParams(num_beams=2, max_new_tokens=8),
    )
    model = build_language_model(config.language_model, folder)
    built = build_mapper(config.mapper, encoder.width, width(model), output == "pooled")
    with torch.no_grad():
        for parameter in [*built.parameters(), *encoder.parameters()]:
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Captioner(config, GitNetwork(encoder, built, model).eval(), load_tokenizer(folder))


def looking_captioner(
    folder: Path, family: str = "gpt2", output: str = "grid", blocks: Sequence[int] = (0, 1)
) -> Captioner:
    """A captioner with open layers of cross-attention; its language model is written into `folder` if absent."""
    if not (folder / "config.json").is_file():
        hub_cache.language_model(folder, family)
    torch.manual_seed(0)
    encoder = build_image_encoder(replace(ENCODER, output=output))
    tokenizer = load_tokenizer(folder)
    config = CaptionerConfig(
        image_encoder=replace(ENCODER, output=output),
        language_model=LanguageModelConfig(name=family, weights=WeightsSource(str(folder))),
        fusion="cross_attention",
        cross_attention=CrossAttentionConfig(tuple(blocks), heads=2, start_token=tokenizer.eos_token_id),
        transform=TransformConfig(resolution=32),
        decoding=DecodingParams(num_beams=2, max_new_tokens=8),
    )
    network = build_network(config, [encoder], build_language_model(config.language_model, folder)).eval()
    with torch.no_grad():
        for parameter in [*network.cross_attention.parameters(), *encoder.parameters()]:
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Captioner(config, network, tokenizer)


def adapted(captioner: Captioner, **settings: Any) -> Captioner:
    """The captioner with an adapter on its language model that changes what it says."""
    config, network = captioner.own_parts()
    adapter = AdapterConfig(rank=2, **settings)
    add_adapter(network.language_model, adapter)
    with torch.no_grad():
        for name, parameter in network.language_model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    network.requires_grad_(False)
    return Captioner(replace(config, adapter=adapter), network, captioner.tokenizer)
