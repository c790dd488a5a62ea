"""The image encoder that a pickle of ClipCap's was made with, which the pickle itself does not say."""

from __future__ import annotations

import re
from pathlib import Path

from git_caption.captioner.legacy.clipcap import ENCODERS
from git_caption.errors import UsageError
from git_caption.model.clip_table import OPENAI_NAMES
from git_caption.params.model import ImageEncoderConfig


def encoder_of(path: Path, width: int) -> ImageEncoderConfig:
    """By the file's name, in which parse_coco.py puts the encoder's (`oscar_split_RN50x4_train.pkl`), else by width.

    Raises:
        UsageError: neither tells.
    """
    name = _named(path.stem) or ENCODERS.get(width)
    if name is None:
        raise UsageError(
            f"{path}: its features have a width of {width}, and neither that nor the file's name tells which image "
            "encoder they are of: give 'image_encoder', as {'name': 'RN50', 'output': 'pooled'}"
        )
    return ImageEncoderConfig(name=name, output="pooled")


def _named(stem: str) -> str | None:
    for name in OPENAI_NAMES:
        if re.search(rf"(^|_){re.escape(name.replace('/', '_'))}(_|$)", stem):
            return name
    return None
