"""Files of generative-image-to-text (https://github.com/kevin671/generative-image-to-text).

Its training wrote bare state dicts: `image_encoder.*` (OpenAI's visual tower), `visual_projection.*` (the mapper),
`language_model.*`, and `wte.weight` (the language model's input embedding once more). What a file does not say, the
caller does, or the tool's own defaults do.

The tool trained with CLIP's normalisation and bicubic resizing and inferred with ImageNet's and bilinear resizing; its
texts are reproduced here, so the config says the latter. It searched with 3 beams and `max_length=100`, of which the
transformers of its time made 99 new tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from git_caption.captioner.hub import resolve_language_model
from git_caption.errors import UsageError, WeightsError
from git_caption.model.folder import architecture_of
from git_caption.model.openai_tower import Tower, described, name_of, of_type
from git_caption.model.quantization import Quantization
from git_caption.model.vision import native_resolution
from git_caption.params.decoding import DecodingParams
from git_caption.params.infer import ModelParams
from git_caption.params.model import (
    CUSTOM,
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    TransformConfig,
    WeightsSource,
)

MAPPER, LANGUAGE_MODEL = "visual_projection.", "language_model."
DEFAULT_LANGUAGE_MODEL = "facebook/opt-2.7b"  # what the tool took where it was told none
# The tool's other two, told by how a file names its language model's layers.
BY_LAYERS = {
    "language_model.transformer.h.": "gpt2-large",
    "language_model.model.layers.": "decapoda-research/llama-7b-hf",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEW_TOKENS = 99
TYPES = {"transformer": "encoder_layer"}  # the tool's names of mappers that we call otherwise
VIT_L_TOKENS = 257  # the one grid from which the tool dropped the class token

Mapping = Literal["linear", "linearLn", "mlp", "encoder_layer"]
EMBEDDING = re.compile(r"language_model\..*\.(wte|embed_tokens)\.weight")


def understood(
    path: Path, tensors: dict[str, Tensor], model: ModelParams, quantization: Quantization | None
) -> tuple[CaptionerConfig, dict[str, Tensor], Path]:
    """The config, the tensors under our names and the language model's folder; as `old_file.read`.

    The language model is quantized as the tool did where nothing else is asked: LLaMA to 8 bits.
    """
    visual, projection = _part(tensors, "image_encoder.", path), _part(tensors, MAPPER, path)
    tower = described(visual, str(path))
    mapper = _mapping_type(projection, path)
    grid = _is_grid(tower, visual, mapper, projection, model.output_grid)
    encoder = _encoder_config(tower, grid, model.input_resolution)
    resolution = tower.resolution or model.input_resolution or native_resolution(encoder)
    conflicts = [
        f"{name} {given!r} was given and the file has {found!r}"
        for name, given, found in (
            ("mapping_type", TYPES.get(str(model.mapper), model.mapper), mapper),
            ("output_grid", model.output_grid, grid),
            ("input_resolution", model.input_resolution, resolution),
        )
        if given is not None and given != found
    ]
    asked = None if model.image_encoder_type is None else of_type(model.image_encoder_type)
    if asked is not None and not asked.fits(tower):
        conflicts.insert(
            0, f"image_encoder_type {model.image_encoder_type!r} ({asked}) was given and the file has {tower}"
        )
    if conflicts:
        raise UsageError(f"{path}: " + "; ".join(conflicts))

    name = model.language_model or _language_model(tensors)
    in_file = any(key.startswith("language_model.") for key in tensors)
    folder = resolve_language_model(name, weights=not in_file)
    renamed = {f"image_encoder.visual.{key}": value for key, value in visual.items() if not (grid and key == "proj")}
    renamed |= {f"mapper.{key}": value for key, value in projection.items()}
    if in_file:
        renamed |= _language_tensors(tensors, path)
    architecture = architecture_of(folder, "language model")
    if quantization is None:
        quantization = "8bit" if architecture["model_type"] == "llama" else "none"
    config = CaptionerConfig(
        image_encoder=encoder,
        mapper=MapperConfig(
            type=mapper, prefix_length=_prefix_length(projection, tensors), rows_attend=mapper != "encoder_layer"
        ),
        language_model=LanguageModelConfig(
            name=name,
            architecture=architecture if in_file else None,
            weights=None if in_file else WeightsSource(id=name),
            quantization=quantization,
        ),
        transform=TransformConfig(
            resolution=resolution, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear", exif=False
        ),
        decoding=DecodingParams(num_beams=3, max_new_tokens=NEW_TOKENS),
    )
    return config, renamed, folder


def _language_model(tensors: dict[str, Tensor]) -> str:
    found = (name for layers, name in BY_LAYERS.items() if any(key.startswith(layers) for key in tensors))
    return next(found, DEFAULT_LANGUAGE_MODEL)


def _part(tensors: dict[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not part:
        raise WeightsError(
            f"{path}: no tensor is named {prefix}*, as generative-image-to-text writes it beside {MAPPER}*; this has "
            f"{next(iter(tensors))}, ..."
        )
    return part


def _mapping_type(projection: dict[str, Tensor], path: Path) -> Mapping:
    kinds: dict[str, Mapping] = {
        "weight": "linear",
        "0.weight": "linearLn",
        "model.0.weight": "mlp",
        "self_attn.in_proj_weight": "encoder_layer",
    }
    for name, kind in kinds.items():
        if name in projection:
            return kind
    raise WeightsError(
        f"{path}: the mapper (visual_projection.{min(projection)}, ...) is none of the tool's: linear, linearLn, mlp "
        "and transformer (one TransformerEncoderLayer)"
    )


def _is_grid(
    tower: Tower, visual: dict[str, Tensor], mapper: str, projection: dict[str, Tensor], asked: bool | None
) -> bool:
    """Grid or pooled, by what the mapper takes; where both are as wide, what was asked, or the tool's default."""
    if mapper == "mlp":
        return False
    if not isinstance(tower.layers, int):
        return tower.pooled_width is None  # the tool deleted the attention pooling of a grid
    taken = next(value.shape[1] for value in projection.values() if value.dim() == 2)
    if tower.grid_width != tower.pooled_width:
        return taken == tower.grid_width
    return True if asked is None else asked


def _encoder_config(tower: Tower, grid: bool, input_resolution: int | None) -> ImageEncoderConfig:
    name = name_of(tower)
    resolution = tower.resolution or input_resolution or 224
    tokens = 1 + (resolution // tower.patch) ** 2 if tower.patch else 0
    return ImageEncoderConfig(
        name=name,
        architecture=tower.architecture(resolution) if name == CUSTOM else None,
        output="grid" if grid else "pooled",
        keep_class_token=tokens != VIT_L_TOKENS,
    )


def _prefix_length(projection: dict[str, Tensor], tensors: dict[str, Tensor]) -> int:
    """Rows that an MLP gives: its output by the language model's width. Another mapper gives one for each row."""
    if "model.2.weight" not in projection or "wte.weight" not in tensors:
        return MapperConfig(type="mlp").prefix_length
    return len(projection["model.2.weight"]) // tensors["wte.weight"].shape[1]


def _language_tensors(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The language model's tensors as its architecture names them, those in 8 bits multiplied out.

    Quantized again they are the same: a row's greatest weight is its scale, which float32 holds exactly.
    """
    own = {name: value for name, value in tensors.items() if name.startswith("language_model.")}
    whole: dict[str, Tensor] = {}
    for name, value in own.items():
        scale = own.get(name.removesuffix("weight") + "SCB")
        if name.endswith(".SCB"):
            continue
        if value.dtype == torch.int8:
            if scale is None:
                raise WeightsError(
                    f"{path}: {name} is in 8 bits without its scale (SCB), as bitsandbytes before 0.37.1 wrote it; "
                    "remove the language_model.* tensors, which the tool did not train, to load them from the hub"
                )
            value = value.float() * (scale.float() / 127)[:, None]
        # the 8-bit output layer of the tool is wrapped in a Sequential
        whole[name.replace("language_model.lm_head.0.", "language_model.lm_head.")] = value
    twice = tensors.get("wte.weight")
    embedding = next((value for name, value in whole.items() if EMBEDDING.fullmatch(name)), None)
    if twice is not None and (embedding is None or not torch.equal(twice, embedding)):
        raise WeightsError(f"{path}: wte.weight is not the language model's input embedding, as the tool writes it")
    return whole
