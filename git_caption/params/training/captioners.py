"""Which family a pretrained captioner is of, by the config.json of its folder or of the hub's cache on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from git_caption.params.hub_cache import cached
from git_caption.params.paths import is_hub_id

VISION_ENCODER_DECODER = "vision-encoder-decoder"


def captioner_family(name: str) -> str:
    """The model type of a captioner, with its decoder's (`vision-encoder-decoder/gpt2`); empty where nothing tells it.

    That of a checkpoint is the one it was trained from. What is wrong with a folder is told when it is loaded.
    """
    settings = _settings(name)
    trained_from = settings.get("captioner")
    if isinstance(trained_from, Mapping):
        settings = _settings(str(trained_from.get("id")))
    family = str(settings.get("model_type", ""))
    decoder = settings.get("decoder")
    if family == VISION_ENCODER_DECODER and isinstance(decoder, Mapping):
        return f"{family}/{decoder.get('model_type', '')}"
    return family


def _settings(name: str) -> Mapping[str, Any]:
    file = Path(name).expanduser() / "config.json"
    if not file.is_file() and is_hub_id(name) and (folder := cached(name)) is not None:
        file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
