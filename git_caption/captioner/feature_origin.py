"""What the features of a captioner are told by, so that a cache of them is not taken for another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from git_caption.captioner import checkpoint, hub, weight_sources
from git_caption.captioner.legacy import old_file
from git_caption.captioner.loading import captioner_folder
from git_caption.errors import UsageError
from git_caption.params.features import FeatureOrigin, What
from git_caption.params.infer import ModelParams
from git_caption.params.model import CaptionerConfig, TransformConfig
from git_caption.params.schema import to_dict


def feature_origin(config: CaptionerConfig, model: ModelParams | None, what: What = "features") -> FeatureOrigin:
    """The origin of a captioner's features, or of its prefixes.

    A frozen encoder is told by its weights' own sha256, so that it is the same one in every checkpoint that refers to
    it; one that is stored in a checkpoint by its tensors there, whatever else was trained since.

    Args:
        config: the captioner's.
        model: where it was loaded from; None for one that is new.
        what: which of the two.

    Raises:
        UsageError: a part is new, so that it has no weights to be told by; or it has no prefixes.
        WeightsError: the weights cannot be read.
    """
    if what == "prefix" and config.mapper is None:
        raise UsageError("'what': a captioner with cross-attention has no mapper to make a prefix: expected features")
    encoder = config.image_encoder
    if what == "features" and config.mixing is not None:
        raise UsageError(
            "features: those of several image encoders that are mixed lie in a file of each: name one of them, as "
            f"'image_encoder_type': {encoder.name!r}"
        )
    if encoder.weights is None:
        weights = _stored_sha256(model, "image_encoder.", encoder.architecture or {})
    else:
        source = encoder.weights
        weights = source.sha256 or weight_sources.weights_sha256(hub.resolve_encoder(source.id, source.revision))
    return FeatureOrigin(
        image_encoder=encoder.name,
        weights=weights,
        output=encoder.output,
        keep_class_token=encoder.keep_class_token or encoder.output == "pooled",
        transform=config.transform,
        mapper=_stored_sha256(model, "mapper.", _mapper(config)) if what == "prefix" else None,
    )


def feature_origins(config: CaptionerConfig, model: ModelParams | None) -> tuple[FeatureOrigin, ...]:
    """The origins of what stands for images: the features of each image encoder, or the stored prefixes that are mixed.

    Raises as `feature_origin`.
    """
    if config.mixing is None:
        return (feature_origin(config, model),)
    alone = [
        feature_origin(replace(config, image_encoder=one.image_encoder, transform=one.transform, mixing=None), model)
        for one in config.encoders
    ]
    if not config.mixes_stored:
        return tuple(alone)
    return tuple(replace(origin, mapper=mapper) for origin, mapper in zip(alone, config.mixing.mappers, strict=True))


def pretrained_origin(name: str, transform: TransformConfig) -> FeatureOrigin:
    """The origin of the prefixes that a pretrained captioner makes: BLIP-2's projected queries. Raises WeightsError."""
    weights = weight_sources.weights_sha256(captioner_folder(name))
    return FeatureOrigin(image_encoder=name, weights=weights, output="grid", transform=transform, mapper=weights)


def _mapper(config: CaptionerConfig) -> dict[str, Any]:
    """What the tensors of a mapper do not say."""
    assert config.mapper is not None, "asked of captioners with one"
    if config.mixing is None:
        return to_dict(config.mapper)
    return {**to_dict(config.mapper), "mixing": to_dict(config.mixing)}


def _stored_sha256(model: ModelParams | None, part: str, described: Mapping[str, Any]) -> str:
    """The sha256 of a part that the captioner's own file holds, and of what its tensors do not say."""
    if model is None:
        raise UsageError(f"features: the {part.rstrip('.').replace('_', ' ')} is new, it has none that could be stored")
    path = Path(model.path).expanduser()
    if path.is_file():
        tensors = old_file.read(path, model).tensors
    else:
        tensors = checkpoint.read_weights(captioner_folder(model.path), (part,))
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if name.startswith(part):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
