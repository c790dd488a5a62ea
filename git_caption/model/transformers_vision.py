"""The visual towers of SigLIP, SigLIP 2 and DINOv3 through transformers.

https://arxiv.org/abs/2303.15343, https://arxiv.org/abs/2502.14786, https://arxiv.org/abs/2508.10104

All rows are taken after the last LayerNorm.

grid:   SigLIP: the patches; it has no class token. DINOv3's ViT: the class token, then the patches, without the
        register tokens, which stand for no place in the image. DINOv3's ConvNeXt: the cells, row by row.
pooled: SigLIP: the row of its attention pooling head. DINOv3: the class token; of a ConvNeXt the mean of the cells.

A SigLIP 2 of flexible resolution (NaFlex) is given squares like every other image encoder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from git_caption.errors import UsageError, WeightsError
from git_caption.model.encoder import ImageEncoder, check_resolution, square_side, visual_tensors
from git_caption.model.folder import load_folder
from git_caption.model.weights import load_exactly, read_tensors
from git_caption.params.json_file import read_object
from git_caption.params.model import TransformConfig

if TYPE_CHECKING:
    from git_caption.params.model import ImageEncoderConfig

# model_type of a visual tower's config -> its class
TOWERS = {
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "dinov3_vit": "DINOv3ViTModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
}
PAIRED = ("siglip", "siglip2")  # model_type of a tower with its text tower
TEXT_TENSORS = ("text_model.", "logit_scale", "logit_bias")
CONVNEXT_STRIDE = 32  # pixels per cell of a ConvNeXt's last stage
PREPROCESSING = "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as transformers writes them


class TransformersEncoder(ImageEncoder):
    """A visual tower of transformers: one of `TOWERS`. They interpolate their positions themselves."""

    def _fit(self, resolution: int) -> None:
        pass

    def _grid(self, pixels: Tensor) -> Tensor:
        rows: Tensor = self._run(pixels).last_hidden_state
        config: Any = self.visual.config
        if config.model_type == "dinov3_convnext":
            return rows[:, 1:]  # the first row is their mean
        if config.model_type == "dinov3_vit":
            patches = rows[:, 1 + config.num_register_tokens :]
            return torch.cat([rows[:, :1], patches], dim=1) if self.keep_class_token else patches
        return rows

    def _pooled(self, pixels: Tensor) -> Tensor:
        row: Tensor = self._run(pixels).pooler_output
        return row

    def _remove_head(self) -> None:
        visual: Any = self.visual
        if hasattr(visual, "use_head"):
            visual.use_head, visual.head = False, None

    def _run(self, pixels: Tensor) -> Any:
        config: Any = self.visual.config
        if config.model_type == "siglip_vision_model":
            return self.visual(pixels, interpolate_pos_encoding=True)
        if config.model_type == "siglip2_vision_model":
            patch = square_side(config.patch_size)
            height, width = (side // patch for side in pixels.shape[2:])
            # the tower takes flat patches and the shape of each image, which is read on the CPU
            patches = pixels.reshape(-1, 3, height, patch, width, patch).permute(0, 2, 4, 3, 5, 1)
            patches = patches.reshape(-1, height * width, patch * patch * 3)
            shapes = torch.tensor([[height, width]] * len(pixels), device="cpu")
            return self.visual(patches, pixel_attention_mask=None, spatial_shapes=shapes)
        return self.visual(pixels)


def build_transformers_encoder(
    config: ImageEncoderConfig, weights: Path | None, resolution: int | None
) -> TransformersEncoder:
    """Build an encoder of transformers; parameters and errors as `build_image_encoder`.

    `weights` is a folder, or a file of `visual.*` tensors that fits the architecture of `config`.
    """
    folder = weights if weights is not None and weights.is_dir() else None
    tower, in_pair = _tower_config(config, folder)
    native, cell = _sizes(tower)
    resolution = native if resolution is None else resolution
    check_resolution("input_resolution", f"image encoder {config.name!r}", resolution, native, cell)
    if resolution % cell:
        raise UsageError(f"image encoder {config.name!r} is of resolution {native}, no multiple of its patches {cell}")
    if config.output == "pooled" and not getattr(tower, "vision_use_head", True):
        raise UsageError(f"image encoder {config.name!r} has no pooling head: use 'output_grid': True")
    for augmentation in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        if hasattr(tower, augmentation):
            setattr(tower, augmentation, None)  # training sees an image's patches where they are, as inference does
    model_class = getattr(transformers, TOWERS[tower.model_type])
    if folder is None:
        visual = model_class(tower)
    else:
        called = f"image encoder {config.name!r}"
        spare = TEXT_TENSORS if in_pair else ()
        visual = load_folder(model_class, folder, called, spare=spare, config=tower, dtype=torch.float32)
    if tower.model_type == "dinov3_vit":
        visual.embeddings.mask_token = None  # for its own training only
    if weights is not None and folder is None:
        load_exactly(visual, visual_tensors(read_tensors(weights), weights), str(weights))
    return TransformersEncoder(
        visual, resolution, config.output, config.keep_class_token, cell, architecture=tower.to_diff_dict()
    )


def transformers_transform(config: ImageEncoderConfig, weights: Path | None, resolution: int | None) -> TransformConfig:
    """From picture to pixels as the folder's preprocessor_config.json says; `resolution` goes before its own.

    Raises:
        WeightsError: there is none, or it asks for what is not offered.
    """
    folder = weights if weights is not None and weights.is_dir() else None
    tower, _ = _tower_config(config, folder)
    if folder is None:
        return TransformConfig(resolution or _sizes(tower)[0], resize="squash")
    path = folder / PREPROCESSING
    content = read_object(path)
    lacking = [key for key in ("image_mean", "image_std", "resample") if content.get(key) is None]
    if lacking:
        raise WeightsError(f"{path}: no {', '.join(lacking)}; the image encoder's normalisation cannot be known")
    if content["resample"] not in FILTERS:
        raise WeightsError(f"{path}: resample {content['resample']}; expected 2 (bilinear) or 3 (bicubic)")
    if off := [step for step in ("do_resize", "do_rescale", "do_normalize") if content.get(step) is False]:
        raise WeightsError(f"{path}: {', '.join(off)} False; expected images that are resized and normalised")
    if abs(255 * content.get("rescale_factor", 1 / 255) - 1) > 1e-6:
        raise WeightsError(f"{path}: rescale_factor {content['rescale_factor']}; expected 1/255")
    own, cropped = _preprocessed_side(content, _sizes(tower)[0], path)
    return TransformConfig(
        resolution=resolution or own,
        mean=tuple(content["image_mean"]),
        std=tuple(content["image_std"]),
        interpolation="bilinear" if FILTERS[content["resample"]] == "bilinear" else "bicubic",
        resize="crop" if cropped else "squash",
    )


def _tower_config(config: ImageEncoderConfig, folder: Path | None) -> tuple[PretrainedConfig, bool]:
    """The visual tower's config, and whether it was taken out of a pair with a text tower."""
    if folder is None:
        settings = dict(config.architecture or {})
        where = f"image_encoder.architecture of {config.name!r}"
    else:
        settings = read_object(folder / "config.json")
        where = str(folder)
    model_type = settings.get("model_type")
    if model_type not in (*TOWERS, *PAIRED):
        raise UsageError(f"{where}: model_type {model_type!r} is no image encoder; expected {', '.join(TOWERS)}")
    try:
        whole = AutoConfig.for_model(**settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from error
    in_pair = model_type in PAIRED
    return (whole.vision_config if in_pair else whole), in_pair


def _sizes(tower: Any) -> tuple[int, int]:
    """The tower's own resolution, and the pixels along the side of a patch or cell."""
    if tower.model_type == "dinov3_convnext":
        return square_side(tower.image_size), CONVNEXT_STRIDE
    patch = square_side(tower.patch_size)
    if tower.model_type == "siglip2_vision_model":
        return math.isqrt(tower.num_patches) * patch, patch
    return square_side(tower.image_size), patch


def _preprocessed_side(content: dict[str, Any], native: int, path: Path) -> tuple[int, bool]:
    """The side of the square that images become, and whether a larger rest of them is cut off."""
    size = content.get("size")
    if size is None:  # NaFlex: as many patches as fit
        return native, False
    if isinstance(size, int):
        size = {"shortest_edge": size} if content.get("do_center_crop") else {"height": size, "width": size}
    crop = content.get("crop_size") if content.get("do_center_crop") else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if "height" in size and size["height"] == size["width"] and crop in (None, size):
        return size["height"], False
    short = size.get("shortest_edge")
    if short is not None and crop == {"height": short, "width": short}:
        return short, True
    raise WeightsError(f"{path}: size {size} with crop_size {crop}; expected a square, or its shorter side and a crop")
