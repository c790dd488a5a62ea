"""What a new captioner mixes: several image encoders, or prefixes that other captioners have stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from git_caption.errors import UsageError
from git_caption.params.features import FeatureOrigin
from git_caption.params.model import (
    CUSTOM,
    EncoderConfig,
    ImageEncoderConfig,
    MapperConfig,
    MixingConfig,
    MixingType,
    WeightsSource,
)
from git_caption.samples.joint_features import JointFeatures, open_features

STORED = "stored"


@dataclass(frozen=True)
class Sources:
    """What prefixes are made from.

    Attributes:
        encoders: the image encoders, one or several.
        mapper: the config of their mappers.
        stored_by: sha256 of the mappers that made stored prefixes; empty where a captioner has its own.
    """

    encoders: Sequence[EncoderConfig]
    mapper: MapperConfig
    stored_by: tuple[str, ...] = ()

    def mixed_by(self, kind: MixingType | None) -> MixingConfig | None:
        """How they are mixed; None is not at all."""
        return None if kind is None else MixingConfig(kind, tuple(self.encoders[1:]), self.stored_by)


def stored_sources(files: str) -> Sources:
    """The sources of stored prefixes, in files whose names are divided by commas.

    Raises:
        UsageError: the files hold features, or prefixes of different lengths or widths.
    """
    features = open_features(files)
    assert isinstance(features, JointFeatures), "checked with the parameters"
    for cache in features.caches:
        if not cache.holds_prefixes:
            raise UsageError(
                f"{cache.path}: holds features, and where no image encoder is named prefixes are mixed: name the "
                "image encoders in 'image_encoder.name', with commas, or store prefixes ('what': 'prefix')"
            )
    shapes = {cache.path: (cache.tokens, cache.width) for cache in features.caches}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{rows} rows of width {width} in {path}" for path, (rows, width) in shapes.items())
        raise UsageError(f"'mixing': the stored prefixes are {listed}; expected prefixes of one length and width")
    origins = [cache.description.origin for cache in features.caches]
    return Sources(
        [_described(origin) for origin in origins],
        MapperConfig("stored", prefix_length=features.caches[0].tokens),
        tuple(origin.mapper or "" for origin in origins),
    )


def _described(origin: FeatureOrigin) -> EncoderConfig:
    """The image encoder whose features became stored prefixes."""
    encoder = ImageEncoderConfig(
        name=STORED if origin.image_encoder == CUSTOM else origin.image_encoder,  # a custom one would be described
        weights=WeightsSource(origin.image_encoder, sha256=origin.weights),
        output=origin.output,
        keep_class_token=origin.keep_class_token,
    )
    return EncoderConfig(encoder, origin.transform)
