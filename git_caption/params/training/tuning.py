"""Which parts are trained, and in which way."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class TuningParams:
    """What of the network is trained."""

    train_image_encoder: bool = key(False, help="train the image encoder too")
    train_language_model: bool = key(False, help="train the language model too")
