"""The network that a config tells of, from image encoders and a language model: what joins them is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from git_caption.model.cross_attention import CrossAttentionNetwork, build_cross_attention
from git_caption.model.git import GitNetwork
from git_caption.model.language import width
from git_caption.model.mapping import Mapper, build_mapper
from git_caption.model.mixing import MixedMapper, join, join_stored
from git_caption.model.temporal import TemporalEmbedding
from git_caption.model.vision import ImageEncoder

if TYPE_CHECKING:
    from git_caption.params.model import CaptionerConfig


def build_network(
    config: CaptionerConfig,
    encoders: Sequence[ImageEncoder],
    language_model: PreTrainedModel,
    dtype: torch.dtype = torch.float32,
) -> GitNetwork:
    """The network of `config`, with a new mapper or new cross-attention, on the CPU.

    Args:
        config: which of the two, and its sizes.
        encoders: those of `config`; none where stored prefixes are mixed.
        language_model: as it is.
        dtype: of image encoders and new parts.

    Raises:
        UsageError: sizes that do not fit the language model, or as `join`.
    """
    if config.cross_attention is not None:
        (encoder,) = encoders
        layers = build_cross_attention(config.cross_attention, encoder.width, language_model)
        start, temporal = config.cross_attention.start_token, _temporal(config, encoder.width, dtype)
        return CrossAttentionNetwork(encoder.to(dtype), language_model, layers.to(dtype), start, temporal)
    image_encoder, mapper = _image_parts(config, encoders, width(language_model))
    temporal = _temporal(config, image_encoder.width, dtype)
    return GitNetwork(image_encoder.to(dtype), mapper.to(dtype), language_model, temporal, config.normalizes)


def _temporal(config: CaptionerConfig, vision_width: int, dtype: torch.dtype) -> TemporalEmbedding | None:
    frames = config.temporal_positions
    return TemporalEmbedding(frames, vision_width).to(dtype) if frames else None


def _image_parts(
    config: CaptionerConfig, encoders: Sequence[ImageEncoder], language_width: int
) -> tuple[ImageEncoder, Mapper | MixedMapper]:
    """What turns images into a prefix: the image encoder, or all that are mixed as one, and a new mapper."""
    assert config.mapper is not None, "checked with the config"
    if config.mixing is None:
        (encoder,) = encoders
        return encoder, build_mapper(config.mapper, encoder.width, language_width, encoder.output == "pooled")
    if config.mixes_stored:
        sources, length = len(config.encoders), config.mapper.prefix_length
        return join_stored(config.mixing.type, sources, length, language_width)
    return join(config.mixing.type, encoders, config.encoders, config.mapper, language_width)
