"""OpenAI's visual towers, told from the shapes of their tensors (names as in OpenAI's `clip` package)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_table import OPENAI_NAMES
from git_caption.model.weights import read_tensors
from git_caption.params.model import CUSTOM

HEAD_WIDTH = 64  # of every CLIP that OpenAI published
STAGE = re.compile(r"layer([1-4])\.(\d+)\.conv1\.weight")
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")


@dataclass(frozen=True)
class Tower:
    """Sizes of a tower. A ResNet's file without attention pooling does not tell its resolution and pooled width."""

    layers: int | tuple[int, ...]
    width: int
    patch: int | None
    resolution: int | None
    pooled_width: int | None

    @property
    def grid_width(self) -> int:
        """The width of a row of the grid."""
        return self.width if isinstance(self.layers, int) else 32 * self.width

    def fits(self, other: Tower) -> bool:
        """Whether no size that both tell differs."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(own is None or theirs is None or own == theirs for own, theirs in pairs)

    def __str__(self) -> str:
        """As errors name it."""
        kind = "ViT" if isinstance(self.layers, int) else "ResNet"
        sizes = {"layers": self.layers, "width": self.width, "patch": self.patch, "resolution": self.resolution}
        return f"{kind}, " + ", ".join(f"{name} {size}" for name, size in sizes.items() if size is not None)

    def architecture(self, resolution: int) -> dict[str, Any]:
        """For a config named 'custom'."""
        layers = self.layers if isinstance(self.layers, int) else list(self.layers)
        vision = {"image_size": resolution, "layers": layers, "width": self.width, "head_width": HEAD_WIDTH}
        if self.patch is not None:
            vision["patch_size"] = self.patch
        return {"embed_dim": self.pooled_width or self.grid_width, "quick_gelu": True, "vision_cfg": vision}


def described(tensors: Mapping[str, Tensor], source: str) -> Tower:
    """The tower of a visual state dict.

    Raises:
        WeightsError: the names are not those of OpenAI's towers.
    """
    if "conv1.weight" not in tensors:
        raise WeightsError(f"{source}: no conv1.weight among the image encoder's tensors, so no tower of OpenAI's CLIP")
    if blocks := [int(found[1]) for name in tensors if (found := BLOCK.fullmatch(name))]:
        width, _, patch, _ = tensors["conv1.weight"].shape
        side = round((len(tensors["positional_embedding"]) - 1) ** 0.5)
        pooled = tensors["proj"].shape[1] if "proj" in tensors else None
        return Tower(max(blocks) + 1, width, patch, patch * side, pooled)
    stages = [STAGE.fullmatch(name) for name in tensors]
    layers = tuple(
        max((int(found[2]) + 1 for found in stages if found and found[1] == stage), default=0) for stage in "1234"
    )
    if not all(layers):
        raise WeightsError(f"{source}: the image encoder's tensors are of no tower of OpenAI's CLIP")
    positions = tensors.get("attnpool.positional_embedding")
    return Tower(
        layers,
        tensors["layer1.0.conv1.weight"].shape[0],
        None,
        None if positions is None else 32 * round((len(positions) - 1) ** 0.5),
        tensors["attnpool.c_proj.weight"].shape[0] if "attnpool.c_proj.weight" in tensors else None,
    )


def of_name(name: str) -> Tower:
    """The tower of one of OpenAI's names.

    Raises:
        UsageError: it is none of them.
    """
    import open_clip

    if name not in OPENAI_NAMES:
        raise UsageError(f"image_encoder_type {name!r}: expected {', '.join(OPENAI_NAMES)} or a local file")
    config = open_clip.get_model_config(OPENAI_NAMES[name])
    vision = config["vision_cfg"]
    layers = vision["layers"]
    return Tower(
        layers if isinstance(layers, int) else tuple(layers),
        vision["width"],
        vision.get("patch_size"),
        vision["image_size"],
        config["embed_dim"],
    )


def of_type(image_encoder_type: str) -> Tower:
    """The tower of `image_encoder_type`: one of OpenAI's names, or a local file with a CLIP model.

    Raises:
        UsageError: neither of them.
        WeightsError: the file holds no tower of OpenAI's.
    """
    path = Path(image_encoder_type).expanduser()
    if path.is_file():
        tensors = read_tensors(path, ("visual.",))
        return described({name.removeprefix("visual."): tensor for name, tensor in tensors.items()}, str(path))
    return of_name(image_encoder_type)


def name_of(tower: Tower) -> str:
    """OpenAI's name of the tower, else 'custom'."""
    return next((name for name in OPENAI_NAMES if of_name(name).fits(tower)), CUSTOM)
