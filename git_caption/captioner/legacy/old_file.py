"""Files of older tools, told apart by the names of their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from git_caption.captioner.legacy import clipcap, git_tool
from git_caption.errors import WeightsError
from git_caption.model.folder import COMPUTED
from git_caption.model.quantization import Quantization
from git_caption.model.weights import read_tensors
from git_caption.params.infer import ModelParams
from git_caption.params.model import CaptionerConfig

TOOLS = {git_tool.MAPPER: git_tool.understood, clipcap.MAPPER: clipcap.understood}
LANGUAGE_MODELS = (git_tool.LANGUAGE_MODEL, clipcap.LANGUAGE_MODEL)


@dataclass(frozen=True)
class OldFile:
    """A file read: the config that describes it, its tensors under our names, the folder of its language model."""

    config: CaptionerConfig
    tensors: dict[str, Tensor]
    language_model: Path


def read(path: Path, model: ModelParams, quantization: Quantization | None = None) -> OldFile:
    """Read a file of an older tool.

    Args:
        path: the `.pt` file.
        model: what is said of it. Its `language_model` gives the architecture that the file's tensors go into; None is
            the tool's own whose layers the file has.
        quantization: of the language model; None is the tool's own.

    Raises:
        UsageError: what was given contradicts the file (all contradictions together, each with both values), or
            something has to be given.
        WeightsError: not a file of a tool that is known.
    """
    tensors = {name: value for name, value in read_tensors(path).items() if not _is_computed(name)}
    for mapper, understood in TOOLS.items():
        if any(name.startswith(mapper) for name in tensors):
            return OldFile(*understood(path, tensors, model, quantization))
    raise WeightsError(
        f"{path}: no tensor is named visual_projection.* or clip_project.*; a checkpoint directory, a file of "
        "generative-image-to-text (image_encoder.*, visual_projection.*, language_model.*) or one of ClipCap "
        f"(clip_project.*, gpt.*) is expected, this has {next(iter(tensors))}, ..."
    )


def _is_computed(name: str) -> bool:
    return name.startswith(LANGUAGE_MODELS) and name.endswith(COMPUTED)
