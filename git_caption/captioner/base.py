"""Base captioners: a frozen captioner whose caption of a picture stands in the prompt of another's.

Prompted style transfer, https://github.com/olafbrah/cs182proj.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from git_caption.captioner import checkpoint_folder, weight_sources
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.feature_origin import feature_origins
from git_caption.captioner.loading import captioner_folder
from git_caption.errors import UsageError, WeightsError
from git_caption.images.reader import Frames, ImageReader
from git_caption.params.decoding import Decoding
from git_caption.params.features import FeatureOrigin
from git_caption.params.infer import ModelParams
from git_caption.params.model import BaseCaptionerConfig, CaptionerConfig, WeightsSource
from git_caption.params.pretrained import PretrainedConfig
from git_caption.params.schema import to_dict
from git_caption.text.prompts import with_base_caption


@dataclass(frozen=True, eq=False)
class Base:
    """The base captioner of a captioner.

    Attributes:
        captioner: whose captions stand in the prompt.
        config: with the template.
        shares_features: whether the features of the captioner that it belongs to are its own features too.
    """

    captioner: Captioner
    config: BaseCaptionerConfig
    shares_features: bool

    @property
    def decoding(self) -> Decoding:
        """How its captions are decoded: one for each picture."""
        return self.captioner.decoding(replace(self.config.decoding, num_captions=1, with_scores=False), "caption")

    @property
    def reader(self) -> ImageReader | None:
        """From an image file to the pixels it takes; None where it takes the features of the other."""
        return None if self.shares_features else self.captioner.reader

    def prompt(self, caption: str) -> str:
        """The prompt with its caption in it."""
        return with_base_caption(self.config.template, caption)

    def prompts(self, images: Sequence[Frames], batch_size: int) -> list[str]:
        """The prompts for images, or videos. Raises as `Captioner.caption`."""
        asked = {name: value for name, value in to_dict(self.config.decoding).items() if value is not None}
        told = {**asked, "num_captions": 1}
        return [self.prompt(text) for text in self.captioner.caption(images, batch_size=batch_size, **told)]


def load_base(
    config: CaptionerConfig, model: ModelParams, device: torch.device, dtype: torch.dtype, exact_decode: bool
) -> Base:
    """The base captioner that a checkpoint's config tells of.

    Args:
        config: of the captioner that it belongs to.
        model: where that one was loaded from.
        device: where it goes.
        dtype: of its weights and activations.
        exact_decode: decode large JPEGs in full.

    Raises:
        WeightsError: it is not there, or is another than the one noted.
    """
    told = config.base
    assert told is not None, "asked by the caller"
    try:
        captioner, own = _loaded(told, model, device, dtype, exact_decode)
    except (UsageError, WeightsError) as error:
        raise WeightsError(
            f"{model.path}: its base captioner cannot be loaded ({error}); give 'prompted': False for captions "
            "without one"
        ) from error
    return Base(captioner, told, _shares_features(captioner.config, own, config, model))


def source_of(path: str) -> WeightsSource:
    """A captioner as config.json refers to it; one on this machine by its full path. Raises as `captioner_folder`."""
    local = Path(path).expanduser()
    name = str(local.resolve()) if local.exists() else path
    return WeightsSource(name, sha256=weight_sources.weights_sha256(_weights(path)))


def model_of(told: BaseCaptionerConfig, folder: Path | None = None) -> ModelParams:
    """The base captioner as `Captioner.load` takes it; one that is stored lies in the `folder` of the checkpoint."""
    if told.source is None:
        assert folder is not None, "only a checkpoint stores one"
        return ModelParams(model_path=str(checkpoint_folder.base_folder(folder)))
    return ModelParams(
        model_path=told.source.id, image_encoder_type=told.image_encoder_type, language_model=told.language_model
    )


def _loaded(
    told: BaseCaptionerConfig, model: ModelParams, device: torch.device, dtype: torch.dtype, exact_decode: bool
) -> tuple[Captioner, ModelParams]:
    own = model_of(told, None if told.source else captioner_folder(model.path))
    if told.source is not None:
        weight_sources.check_source(told.source, _weights(own.path))
    precision: Any = str(dtype).removeprefix("torch.")
    captioner = Captioner.load(
        own.path, **own.told, exact_decode=exact_decode, device=str(device), dtype=precision, prompted=False
    )
    return captioner, own


def _weights(path: str) -> Path:
    """The file or the folder of a captioner."""
    file = Path(path).expanduser()
    return file if file.is_file() else captioner_folder(path)


def _shares_features(
    own: CaptionerConfig | PretrainedConfig, own_model: ModelParams, config: CaptionerConfig, model: ModelParams
) -> bool:
    """Whether two captioners see pictures through the same image encoder."""
    if not isinstance(own, CaptionerConfig):
        return False
    origins, others = feature_origins(own, own_model), feature_origins(config, model)
    return len(origins) == len(others) and not any(map(FeatureOrigin.differences, origins, others))
