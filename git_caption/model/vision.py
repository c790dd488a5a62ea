"""Image encoders by name: CLIP's towers through open_clip, SigLIP's and DINOv3's through transformers.

What grid and pooled mean for each stands at the head of `clip_vision` and `transformers_vision`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from git_caption.errors import WeightsError
from git_caption.model.clip_table import architecture_name
from git_caption.model.clip_vision import build_clip_encoder, clip_transform, native_resolution
from git_caption.model.encoder import Beside, Features, ImageEncoder, Prefix
from git_caption.model.transformers_vision import build_transformers_encoder, transformers_transform

if TYPE_CHECKING:
    from git_caption.params.model import ImageEncoderConfig, TransformConfig

__all__ = [
    "Beside",
    "Features",
    "ImageEncoder",
    "Prefix",
    "build_image_encoder",
    "encoder_transform",
    "native_resolution",
]


def build_image_encoder(
    config: ImageEncoderConfig, weights: Path | None = None, resolution: int | None = None
) -> ImageEncoder:
    """Build the image encoder of `config`, in fp32 on the CPU.

    Args:
        config: its name (OpenAI's, open_clip's, of a transformers model, or 'custom' with an architecture) and what it
            shall give.
        weights: a file with the `visual.*` tensors of a CLIP model, or a folder of a transformers model; None leaves
            random weights, to be loaded or trained by the caller.
        resolution: the side of the images; None is the model's own. Another one interpolates the positions.

    Raises:
        UsageError: an unknown name or architecture, a resolution the patch size does not divide, or weights whose
            activation is not the model's.
        WeightsError: the tensors are not the model's.
    """
    if _is_of_transformers(config, weights):
        return build_transformers_encoder(config, weights, resolution)
    return build_clip_encoder(config, weights, resolution)


def encoder_transform(
    config: ImageEncoderConfig, weights: Path | None = None, resolution: int | None = None
) -> TransformConfig:
    """From picture to pixels as the encoder's weights were trained; parameters as `build_image_encoder`.

    Raises:
        UsageError: an unknown name or architecture.
        WeightsError: weights that do not tell, or were trained with what is not offered.
    """
    if _is_of_transformers(config, weights):
        return transformers_transform(config, weights, resolution)
    return clip_transform(config, weights, resolution)


def _is_of_transformers(config: ImageEncoderConfig, weights: Path | None) -> bool:
    """Whether the encoder is one of transformers, by its weights (a folder, not a file) or its architecture."""
    given = config.architecture is not None and "model_type" in config.architecture
    in_folder = weights is not None and weights.is_dir()
    is_clip = architecture_name(config.name) is not None or (config.architecture is not None and not given)
    if in_folder and is_clip:
        raise WeightsError(f"{weights}: a model of transformers, and image encoder {config.name!r} is one of open_clip")
    return given or in_folder
