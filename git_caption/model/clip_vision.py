"""The visual towers of CLIP (https://arxiv.org/abs/2103.00020) through open_clip.

grid:   ViT: the class token, then every patch, after the last LayerNorm, unprojected. ResNet: the cells of the last
        stage, row by row, before attention pooling (no positional embedding).
pooled: CLIP's image embedding, N = 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from git_caption.errors import UsageError, WeightsError
from git_caption.model import openai_tower
from git_caption.model.activation import OPENAI_MARKS, check_activation
from git_caption.model.clip_table import architecture_name, description_beside, known_of, unknown
from git_caption.model.encoder import ImageEncoder, check_resolution, square_side, visual_tensors
from git_caption.model.positions import fit, fitted, interpolated, is_table
from git_caption.model.weights import load_exactly, read_tensors
from git_caption.params.model import CUSTOM, TransformConfig

if TYPE_CHECKING:
    from git_caption.params.model import ImageEncoderConfig

RESNET_STRIDE = 32  # pixels per cell of a CLIP ResNet's last stage
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}  # the tower is thrown away
ARCHITECTURE = {"embed_dim", "quick_gelu", "vision_cfg"}
RESIZES = {"shortest": "crop", "squash": "squash"}


class ClipEncoder(ImageEncoder):
    """A visual tower of open_clip: its own ViTs and ResNets, and timm's.

    Positions are interpolated to the grid of another shape as GenerativeImage2Text does; timm's are for squares.
    """

    @property
    def _takes_shapes(self) -> bool:
        return not hasattr(self.visual, "trunk")

    def _fit(self, resolution: int) -> None:
        assert self.cell is not None, "checked"
        _fit(self.visual, self.resolution, resolution, self.cell)

    def _values(self, pixels: Tensor) -> Tensor:
        tables = self._tables(pixels)
        if tables:
            rows: Tensor = torch.func.functional_call(_Rows(self), tables, (pixels,))
            return rows
        return super()._values(pixels)

    def _tables(self, pixels: Tensor) -> dict[str, Tensor]:
        """The tables of positions interpolated to the grid of images of another shape, by their names in `_Rows`."""
        height, width = pixels.shape[2:]
        if self.cell is None or height == width == self.resolution:
            return {}
        side = self.resolution // self.cell
        return {
            f"encoder.visual.{name}": interpolated(table, side, (height // self.cell, width // self.cell))
            for name, table in self.visual.named_parameters()
            if is_table(name, table, side)
        }

    def _grid(self, pixels: Tensor) -> Tensor:
        gives_tokens = _gives_tokens(self.visual)
        found = self.visual.forward_intermediates(  # type: ignore[operator]
            pixels,
            indices=1,
            intermediates_only=True,
            normalize_intermediates=True,
            output_extra_tokens=gives_tokens and self.keep_class_token,
            output_fmt="NLC" if gives_tokens else "NCHW",
        )
        rows: Tensor = found["image_intermediates"][-1]
        if rows.dim() == 4:
            return rows.flatten(2).transpose(1, 2)  # [B, D_v, H, W] -> [B, H * W, D_v]
        first = found.get("image_intermediates_prefix")
        return torch.cat([first[-1], rows], dim=1) if first else rows

    def _pooled(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.visual(pixels)
        return embedding

    def _remove_head(self) -> None:
        for name, nothing in (("attnpool", None), ("proj", None), ("head", nn.Identity())):
            if hasattr(self.visual, name):
                setattr(self.visual, name, nothing)


class _Rows(nn.Module):
    """The rows of an encoder as a module, for `functional_call` puts other tensors into modules only."""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return ImageEncoder._values(self.encoder, pixels)


def build_clip_encoder(config: ImageEncoderConfig, weights: Path | None, resolution: int | None) -> ClipEncoder:
    """Build a CLIP encoder; parameters and errors as `build_image_encoder`."""
    import open_clip

    architecture = _architecture(config, weights)
    tensors = {} if weights is None else _read(weights)
    quick_gelu = bool(architecture.get("quick_gelu", False))
    vision_cfg = dict(architecture["vision_cfg"])
    native = square_side(vision_cfg.get("image_size", 224))
    resolution = native if resolution is None else resolution
    is_timm = bool(vision_cfg.get("timm_model_name"))
    cell = None if is_timm else _cell(vision_cfg)
    if not is_timm:
        check_resolution("input_resolution", f"image encoder {config.name!r}", resolution, native, cell)
        vision_cfg["image_size"] = resolution
    if config.output == "grid" and vision_cfg.get("attentional_pool"):
        raise UsageError(f"image encoder {config.name!r} pools by attention and has no grid: use 'output_grid': False")
    vision_cfg["timm_model_pretrained"] = False  # never a download from inside a constructor
    vision_cfg["output_tokens"] = False  # CoCa's towers give a pair otherwise
    # random numbers that a file replaces are not drawn; timm's towers compute tables that no file holds
    with nullcontext() if weights is None or is_timm else torch.device("meta"):
        visual = open_clip.CLIP(architecture["embed_dim"], vision_cfg, NO_TEXT, quick_gelu=quick_gelu).visual
    source = config.weights.id if config.weights else config.name
    check_activation(visual, config.name, quick_gelu, source, weights, tensors)
    if weights is not None:
        table = visual_tensors(tensors, weights)
        if cell is not None and resolution != native:
            table = fitted(table, native // cell, resolution // cell)
        load_exactly(visual, table, str(weights), assign=True)
    if is_timm:
        cell = _timm_cell(visual)
        check_resolution("input_resolution", f"image encoder {config.name!r}", resolution, native, cell)
        if cell is not None and resolution != native:
            _fit(visual, native, resolution, cell)
    kept = None if config.name == CUSTOM or architecture_name(config.name) else architecture
    return ClipEncoder(visual.float(), resolution, config.output, config.keep_class_token, cell, kept)


def clip_transform(config: ImageEncoderConfig, weights: Path | None, resolution: int | None) -> TransformConfig:
    """From picture to pixels as the weights were trained, by open_clip's table or the description beside them.

    Raises:
        WeightsError: they were trained with a resize that is not offered.
    """
    native = native_resolution(config, weights)
    source = config.weights.id if config.weights else config.name
    known = known_of(source, weights)
    given = {} if known is None else known.preprocessing
    resize = given.get("resize_mode", "shortest")
    if resize not in RESIZES:
        raise WeightsError(f"{source}: trained on images resized by {resize!r}; expected one of {sorted(RESIZES)}")
    defaults = TransformConfig()
    return TransformConfig(
        resolution=resolution or native,
        mean=tuple(given.get("mean", defaults.mean)),
        std=tuple(given.get("std", defaults.std)),
        interpolation="bilinear" if given.get("interpolation") == "bilinear" else "bicubic",
        resize="squash" if RESIZES[resize] == "squash" else "crop",
    )


def native_resolution(config: ImageEncoderConfig, weights: Path | None = None) -> int:
    """The side of the images a CLIP model was trained on."""
    return square_side(_architecture(config, weights)["vision_cfg"].get("image_size", 224))


def _architecture(config: ImageEncoderConfig, weights: Path | None) -> dict[str, Any]:
    """`embed_dim`, `quick_gelu` and `vision_cfg` of the model: by name, as given, or as its file tells."""
    import open_clip

    name = architecture_name(config.name)
    if config.architecture is not None:
        if name is not None:
            raise UsageError(f"image_encoder.architecture goes with the name 'custom', not with {config.name!r}")
        return _checked(config.architecture)
    if name is not None:
        return dict(open_clip.get_model_config(name))
    if weights is None:
        raise unknown(config.name)
    if description := description_beside(weights):
        found = description.get("model_cfg", description)
        return _checked({key: value for key, value in found.items() if key in ARCHITECTURE})
    tensors = _read(weights)
    if set(OPENAI_MARKS) <= set(tensors):
        tower = openai_tower.described(visual_tensors(tensors, weights), str(weights))
        return tower.architecture(tower.resolution or 224)
    raise UsageError(
        f"image encoder {config.name!r}: {weights} does not tell its architecture; name a model of OpenAI or "
        "open_clip, as 'ViT-B-32', and give the file as 'weights': {'id': ...}"
    )


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    import open_clip

    if set(given) - ARCHITECTURE or not {"embed_dim", "vision_cfg"} <= set(given):
        raise UsageError(f"image_encoder.architecture has the keys {sorted(given)}, expected {sorted(ARCHITECTURE)}")
    fields = set(open_clip.CLIPVisionCfg.__dataclass_fields__)
    unknown_fields = sorted(set(given["vision_cfg"]) - fields)
    if unknown_fields:
        raise UsageError(f"image_encoder.architecture.vision_cfg: unknown {unknown_fields}, known: {sorted(fields)}")
    return dict(given)


def _read(weights: Path) -> dict[str, Tensor]:
    return read_tensors(weights, ("visual.", *OPENAI_MARKS))


def _cell(vision_cfg: Mapping[str, Any]) -> int:
    """Pixels along the side of a patch of open_clip's ViTs, or of a cell of its ResNets."""
    is_vit = isinstance(vision_cfg.get("layers", 12), int)
    return square_side(vision_cfg.get("patch_size", 16)) if is_vit else RESNET_STRIDE


def _fit(visual: Any, old: int, new: int, cell: int) -> None:
    """Interpolate the positions of a tower, its weights in place, from one resolution to another."""
    if not hasattr(visual, "trunk"):
        fit(visual, old // cell, new // cell)
    elif hasattr(visual.trunk, "set_input_size"):
        visual.trunk.set_input_size((new, new))


def _timm_cell(visual: Any) -> int | None:
    """Pixels along a patch or cell of one of timm's towers; None where it pools a grid of fixed size."""
    return None if hasattr(visual.head, "pool") else int(visual.trunk.feature_info[-1]["reduction"])


def _gives_tokens(visual: nn.Module) -> bool:
    """Whether the tower's rows are a transformer's tokens, rather than the cells of a convolutional network."""
    if not hasattr(visual, "trunk"):
        return not hasattr(visual, "layer4")
    trunk: Any = visual.trunk
    return "return_prefix_tokens" in inspect.signature(trunk.forward_intermediates).parameters
