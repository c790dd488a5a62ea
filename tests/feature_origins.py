"""What features are made from, made up."""

from __future__ import annotations

from typing import Any

from git_caption.params.features import CacheDescription, FeatureOrigin
from git_caption.params.model import TransformConfig


def origin(**changed: Any) -> FeatureOrigin:
    own = {"image_encoder": "ViT-B/32", "weights": "ab" * 32, "output": "grid", "transform": TransformConfig(32)}
    return FeatureOrigin(**{**own, **changed})


def description(**changed: Any) -> CacheDescription:
    own = {"origin": origin(), "inputs": (), "computed_in": "float32", "exact_decode": False}
    return CacheDescription(**{**own, **changed})
