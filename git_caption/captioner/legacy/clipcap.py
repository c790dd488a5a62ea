"""Files of ClipCap (https://github.com/rmokady/CLIP_prefix_caption), and of its OPT variant.

Its training wrote bare state dicts: `clip_project.*` (the mapper) and `gpt.*` (the language model, also where it was
frozen). The image encoder is not among them; its width tells which of the two that the tool used.

Captions were learnt without an end token: the tool took the likeliest token each time, up to the first full stop or 67
tokens, and so does the config. What came out here lacks the full stop.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from git_caption.captioner.hub import resolve_encoder, resolve_language_model
from git_caption.captioner.weight_sources import weights_sha256
from git_caption.errors import UsageError, WeightsError
from git_caption.model.folder import architecture_of
from git_caption.model.quantization import Quantization
from git_caption.model.vision import encoder_transform
from git_caption.params.decoding import DecodingParams
from git_caption.params.infer import ModelParams
from git_caption.params.model import (
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    WeightsSource,
)

MAPPER, LANGUAGE_MODEL = "clip_project.", "gpt."
ENCODERS = {512: "ViT-B/32", 640: "RN50x4"}  # by the width of what they give; the second was trained with --is_rn
# By the name of the input embedding and its width.
LANGUAGE_MODELS = {
    "gpt.transformer.wte.weight": {768: "gpt2", 1024: "gpt2-medium", 1280: "gpt2-large", 1600: "gpt2-xl"},
    "gpt.model.decoder.embed_tokens.weight": {
        768: "facebook/opt-125m",
        2048: "facebook/opt-1.3b",
        2560: "facebook/opt-2.7b",
        4096: "facebook/opt-6.7b",
    },
}
HEADS = 8
NEW_TOKENS = 67
LAYER = re.compile(r"transformer\.layers\.(\d+)\.")


def understood(
    path: Path, tensors: dict[str, Tensor], model: ModelParams, quantization: Quantization | None
) -> tuple[CaptionerConfig, dict[str, Tensor], Path]:
    """The config, the tensors under our names and the language model's folder; as `old_file.read`.

    A file does not say whether features were normalised (`--normalize_prefix`): `mapper.normalize` is False.
    """
    projection = _part(tensors, MAPPER)
    embedding = _embedding(tensors, path)
    language_width = tensors[embedding].shape[1]
    mapper, width = _mapper(projection, language_width, path)
    conflicts = [
        f"{name} {given!r} was given and the file has {found!r}"
        for name, given, found in (
            ("mapping_type", model.mapper, mapper.type),
            ("output_grid", model.output_grid, False),
        )
        if given is not None and given != found
    ]
    if conflicts:
        raise UsageError(f"{path}: " + "; ".join(conflicts))
    encoder = model.image_encoder_type or ENCODERS.get(width)
    if encoder is None:
        raise UsageError(
            f"{path}: features of width {width}, which neither of ClipCap's image encoders gives; say which does "
            "('image_encoder_type')"
        )
    name = model.language_model or LANGUAGE_MODELS[embedding].get(language_width)
    if name is None:
        raise UsageError(f"{path}: a language model of width {language_width}; say which it is ('language_model')")
    folder = resolve_language_model(name, weights=False)
    weights = resolve_encoder(encoder)
    source = WeightsSource(id=encoder, sha256=weights_sha256(weights))
    image_encoder = ImageEncoderConfig(name=encoder, weights=source, output="pooled")
    transform = encoder_transform(image_encoder, weights, model.input_resolution)
    config = CaptionerConfig(
        image_encoder=image_encoder,
        mapper=mapper,
        language_model=LanguageModelConfig(
            name=name, architecture=architecture_of(folder, "language model"), quantization=quantization or "none"
        ),
        transform=replace(transform, exif=False),
        decoding=DecodingParams(temperature=0.0, max_new_tokens=NEW_TOKENS, stop=(".",)),
    )
    renamed = {f"mapper.{key}": value for key, value in projection.items()}
    renamed |= {f"language_model.{key}": value for key, value in _part(tensors, LANGUAGE_MODEL).items()}
    return config, renamed, folder


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _embedding(tensors: dict[str, Tensor], path: Path) -> str:
    """The name of the language model's input embedding."""
    found = next((name for name in LANGUAGE_MODELS if name in tensors), None)
    if found is None:
        raise WeightsError(f"{path}: no language model beside clip_project.*, expected {' or '.join(LANGUAGE_MODELS)}")
    return found


def _mapper(projection: dict[str, Tensor], language_width: int, path: Path) -> tuple[MapperConfig, int]:
    """The mapper by its tensors, and the width of the features that it takes."""
    if "model.2.weight" in projection:
        length = len(projection["model.2.weight"]) // language_width
        return MapperConfig("mlp", prefix_length=length), projection["model.0.weight"].shape[1]
    if {"prefix_const", "linear.weight"} <= projection.keys():
        layers = [int(found[1]) for name in projection if (found := LAYER.match(name))]
        rows, width = projection["linear.weight"].shape
        mapper = MapperConfig(
            "transformer",
            prefix_length=len(projection["prefix_const"]),
            clip_length=rows // language_width,
            layers=max(layers, default=0) + 1,
            heads=HEADS,
        )
        return mapper, width
    raise WeightsError(f"{path}: the mapper (clip_project.{min(projection)}, ...) is none of ClipCap's")
