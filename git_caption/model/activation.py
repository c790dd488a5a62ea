"""Which activation CLIP weights were trained with, and whether a visual tower runs it.

OpenAI trained with QuickGELU, most others with GELU. The tensors are the same in name and shape, so nothing but this
check keeps weights from running with the wrong one, which costs accuracy and says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from torch import nn

from git_caption.errors import UsageError, WeightsError

# OpenAI trained with QuickGELU; open_clip's plain names would run these weights with another activation
OPENAI_NAMES = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "RN50x4": "RN50x4-quickgelu",
    "RN50x16": "RN50x16-quickgelu",
    "RN50x64": "RN50x64-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}
# OpenAI's own files, and only these, carry their sizes as tensors beside the weights
OPENAI_MARKS = ("input_resolution", "context_length")


def check_activation(
    tower: nn.Module, name: str, quick_gelu: bool, source: str | None, weights: Path | None, tensors: Collection[str]
) -> None:
    """Compare the activation of a built tower with what is known of its weights.

    Args:
        tower: the visual tower; one without either activation (a ResNet) takes any weights.
        name: the image encoder's.
        quick_gelu: what the architecture says.
        source: where the weights are from: a hub repository, one of OpenAI's names, or a path.
        weights: the file; None where the weights come later, from a checkpoint whose config holds the architecture.
        tensors: names in the file.

    Raises:
        UsageError: the weights need the other activation.
        WeightsError: open_clip built the tower with another activation than the architecture says.
    """
    from open_clip.transformer import QuickGELU

    runs = {QuickGELU: True, nn.GELU: False}
    found = {runs[type(module)] for module in tower.modules() if type(module) in runs}
    if not found or hasattr(tower, "trunk"):  # timm's towers run GELU whatever quick_gelu says
        return
    if found != {quick_gelu}:
        built = "QuickGELU" if True in found else "GELU"
        raise WeightsError(
            f"image encoder {name!r} has quick_gelu {quick_gelu} and this version of open_clip built it with {built}"
        )
    known = _by_name(source)
    if known is None and set(OPENAI_MARKS) <= set(tensors):
        known = True
    if known is None and weights is not None:
        known = _by_place(weights)
    if known is not None and known != quick_gelu:
        raise UsageError(_wrong(name, str(weights or source), known))


def _by_name(source: str | None) -> bool | None:
    """Whether weights named so run QuickGELU, from open_clip's table of repositories; None if it does not say."""
    import open_clip

    if source is None:
        return None
    if source in OPENAI_NAMES:
        return True
    for model, tag in open_clip.list_pretrained():
        known = open_clip.get_pretrained_cfg(model, tag)
        if str(known.get("hf_hub", "")).rstrip("/") == source or (model == source and tag == "openai"):
            return bool(known.get("quick_gelu", False))
    return None


def _by_place(weights: Path) -> bool | None:
    """Whether weights run QuickGELU, as their place in a hub cache or the description beside them says."""
    cached = [part.removeprefix("models--") for part in weights.parts if part.startswith("models--")]
    known = _by_name(cached[-1].replace("--", "/")) if cached else None
    description = weights.parent / "open_clip_config.json"
    if known is not None or not description.is_file():
        return known
    written = json.loads(description.read_text(encoding="utf-8"))
    return bool(written.get("model_cfg", written).get("quick_gelu", False))


def _wrong(name: str, weights: str, known: bool) -> str:
    plain = OPENAI_NAMES.get(name, name).removesuffix("-quickgelu")
    by_architecture = {value.removesuffix("-quickgelu"): key for key, value in OPENAI_NAMES.items()}
    better = by_architecture.get(plain, f"{plain}-quickgelu") if known else plain
    trained, runs = ("QuickGELU", "GELU") if known else ("GELU", "QuickGELU")
    use = f"'quick_gelu': {known} in its architecture" if name == "custom" else repr(better)
    return f"the weights {weights} were trained with {trained} and image encoder {name!r} runs {runs}: use {use}"
