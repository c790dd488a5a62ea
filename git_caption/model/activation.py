"""Which activation CLIP weights were trained with, and whether a visual tower runs it.

OpenAI trained with QuickGELU, most others with GELU. The tensors are the same in name and shape, so nothing but this
check keeps weights from running with the wrong one, which costs accuracy and says nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import nn

from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_table import OPENAI_NAMES, architecture_name, known_of

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
        source: where the weights are from: a hub repository, a name, or a path.
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
    known = known_of(source, None)
    needed = known.quick_gelu if known is not None else True if set(OPENAI_MARKS) <= set(tensors) else None
    if needed is None and weights is not None and (known := known_of(None, weights)):
        needed = known.quick_gelu
    if needed is not None and needed != quick_gelu:
        raise UsageError(_wrong(name, str(weights or source), needed))


def _wrong(name: str, weights: str, needed: bool) -> str:
    trained, runs = ("QuickGELU", "GELU") if needed else ("GELU", "QuickGELU")
    model = architecture_name(name)
    if model is None:
        use = f"'quick_gelu': {needed} in its architecture"
    else:
        plain = model.removesuffix("-quickgelu")
        better = f"{plain}-quickgelu" if needed else plain
        _, colon, tag = name.partition(":")
        openai = {architecture: openai_name for openai_name, architecture in OPENAI_NAMES.items()}
        if tag in ("", "openai"):
            better, colon, tag = openai.get(better, better), "", ""
        use = repr(f"{better}{colon}{tag}")
    return f"the weights {weights} were trained with {trained} and image encoder {name!r} runs {runs}: use {use}"
