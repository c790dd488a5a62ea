"""Image encoders: the visual towers of CLIP (https://arxiv.org/abs/2103.00020) through open_clip.

    pixels float32[B, 3, R, R] -> visual tower -> Features(values float[B, N, D_v], mask bool[B, N])

grid:   ViT: the class token, then every patch, after the last LayerNorm, unprojected. ResNet: the cells of the last
        stage, row by row, before attention pooling (no positional embedding).
pooled: CLIP's image embedding, N = 1.

Shape letters: B batch, R resolution, N image tokens, D_v vision width.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from git_caption.errors import UsageError, WeightsError
from git_caption.model.activation import OPENAI_MARKS, OPENAI_NAMES, check_activation
from git_caption.model.positions import fit, fitted, interpolated, is_table
from git_caption.model.weights import load_exactly, read_tensors

if TYPE_CHECKING:
    from git_caption.params.model import ImageEncoderConfig

RESNET_STRIDE = 32  # pixels per cell of a CLIP ResNet's last stage
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}  # the tower is thrown away


@dataclass(frozen=True, eq=False)
class Features:
    """What an image encoder gives: `values` float[B, N, D_v] and `mask` bool[B, N], true where a row is real."""

    values: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """Move or cast as `Tensor.to` does; the mask stays boolean."""
        values = self.values.to(*args, **kwargs)
        return Features(values, self.mask.to(values.device))

    def select(self, rows: Tensor) -> Features:
        """The features of the given images (long[M]), for several prompts on one image."""
        return Features(self.values[rows], self.mask[rows])


class ImageEncoder(nn.Module):
    """A visual tower that gives `Features`.

    Attributes:
        width: D_v, the width of a row of features.
        tokens: N, the number of rows per image.
        resolution: the side of the square images it takes.
        cell: pixels along a patch of a ViT or a cell of a ResNet; None where the tower's positions are fixed.
        any_shape: whether it also takes images of other shapes, a whole number of cells high and wide.
    """

    def __init__(
        self,
        visual: nn.Module,
        resolution: int,
        output: str = "grid",
        keep_class_token: bool = True,
        cell: int | None = None,
    ) -> None:
        """Wrap `visual`, an open_clip tower; on grid its projection or pooling head is removed, for it is not used."""
        super().__init__()
        self.visual = visual
        self.resolution = resolution
        self.cell = cell
        self.any_shape = False
        self.output = output
        self.keep_class_token = keep_class_token
        if output == "grid":
            _remove_head(visual)
        self.train(self.training)
        self.tokens, self.width = self._output_shape()

    def forward(self, pixels: Tensor) -> Features:
        """Encode pixels float[B, 3, R, R], or float[B, 3, H, W] of any shape where it was told to take them.

        Positions are interpolated to the grid of another shape, as GenerativeImage2Text does.

        Raises:
            UsageError: the images are not of the encoder's resolution, nor of another shape that it takes.
        """
        tables = self._tables(self._grid_of(pixels))
        pixels = pixels.to(next(self.visual.parameters()).dtype)
        values = torch.func.functional_call(_Values(self), tables, (pixels,)) if tables else self.values(pixels)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def values(self, pixels: Tensor) -> Tensor:
        """The rows float[B, N, D_v] of pixels whose grid the tower's positions have."""
        return self._grid(pixels) if self.output == "grid" else self.visual(pixels).unsqueeze(1)

    def take(self, resolution: int, *, any_shape: bool) -> None:
        """From now on take images of this resolution; with `any_shape` also others, whole cells high and wide.

        The positions are interpolated for good, as when a file of another resolution is read.

        Raises:
            UsageError: the tower's positions are fixed, or its cells do not divide the resolution.
        """
        if any_shape and self.cell is None:
            raise UsageError(
                f"the image encoder takes squares of {self.resolution} pixels only: leave out "
                "'test_respect_ratio_max', or 'resize': 'keep' of the checkpoint's transform"
            )
        if resolution != self.resolution:
            _check_resolution("test_crop_size", "the image encoder", resolution, self.resolution, self.cell)
            assert self.cell is not None, "checked"
            fit(self.visual, self.resolution // self.cell, resolution // self.cell)
            self.resolution = resolution
            self.tokens, self.width = self._output_shape()
        self.any_shape = any_shape

    def _grid_of(self, pixels: Tensor) -> tuple[int, int] | None:
        """Rows and columns of cells, where they are not those of the encoder's resolution."""
        if pixels.dim() == 4 and pixels.shape[1:] == (3, self.resolution, self.resolution):
            return None
        height, width = pixels.shape[-2:]
        cell = self.cell if self.any_shape else None
        if cell and pixels.dim() == 4 and min(height, width) >= cell and height % cell == width % cell == 0:
            return height // cell, width // cell
        also = f", or of another shape in multiples of {cell}," if cell else ""
        raise UsageError(
            f"the image encoder takes pixels [B, 3, {self.resolution}, {self.resolution}]{also} and was given "
            f"{list(pixels.shape)}: input_resolution of the images and of the encoder must be the same"
        )

    def _tables(self, grid: tuple[int, int] | None) -> dict[str, Tensor]:
        """The tables of positions interpolated to a grid, by their names in `_Values`."""
        if grid is None or self.cell is None:
            return {}
        side = self.resolution // self.cell
        return {
            f"encoder.visual.{name}": interpolated(table, side, grid)
            for name, table in self.visual.named_parameters()
            if is_table(name, table, side)
        }

    def train(self, mode: bool = True) -> ImageEncoder:
        """As `nn.Module.train`, with batch normalisation kept on its stored statistics.

        The statistics come from CLIP's batches of thousands; a few captioning batches would only spoil them.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

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

    @torch.no_grad()
    def _output_shape(self) -> tuple[int, int]:
        """(N, D_v), from a forward pass that computes shapes only."""
        state = {name: torch.empty_like(tensor, device="meta") for name, tensor in self._all_tensors()}
        pixels = torch.empty(1, 3, self.resolution, self.resolution, device="meta")
        training = self.training
        self.eval()
        features = torch.func.functional_call(self, state, (pixels,))
        self.train(training)
        return features.values.shape[1], features.values.shape[2]

    def _all_tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(), *self.named_buffers()]


class _Values(nn.Module):
    """`ImageEncoder.values` as a module, for `functional_call` puts other tensors into modules only."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.values(pixels)


def build_image_encoder(
    config: ImageEncoderConfig, weights: Path | None = None, resolution: int | None = None
) -> ImageEncoder:
    """Build the image encoder of `config`, in fp32 on the CPU.

    Args:
        config: its name (OpenAI's, open_clip's, or 'custom' with an architecture) and what it shall give.
        weights: a file with the `visual.*` tensors of a CLIP model; None leaves random weights, to be loaded or
            trained by the caller.
        resolution: the side of the images; None is the model's own. Another one interpolates the positions.

    Raises:
        UsageError: an unknown name or architecture, a resolution the patch size does not divide, or weights whose
            activation is not the model's.
        WeightsError: the file's tensors are not the model's.
    """
    import open_clip

    architecture = _architecture(config)
    quick_gelu = bool(architecture.get("quick_gelu", False))
    vision_cfg = dict(architecture["vision_cfg"])
    native = _square(vision_cfg.get("image_size", 224))
    resolution = native if resolution is None else resolution
    cell = _cell(vision_cfg)
    if resolution != native:
        _check_resolution("input_resolution", f"image encoder {config.name!r}", resolution, native, cell)
    vision_cfg["image_size"] = resolution
    if config.output == "grid" and vision_cfg.get("attentional_pool"):
        raise UsageError(f"image encoder {config.name!r} pools by attention and has no grid: use 'output_grid': False")
    vision_cfg["timm_model_pretrained"] = False  # never a download from inside a constructor
    vision_cfg["output_tokens"] = False  # CoCa's towers give a pair otherwise
    # random numbers that a file replaces are not drawn; timm's towers compute tables that no file holds
    with torch.device("cpu" if weights is None or vision_cfg.get("timm_model_name") else "meta"):
        visual = open_clip.CLIP(architecture["embed_dim"], vision_cfg, NO_TEXT, quick_gelu=quick_gelu).visual
    tensors = {} if weights is None else read_tensors(weights, ("visual.", *OPENAI_MARKS))
    source = config.weights.id if config.weights else None
    check_activation(visual, config.name, quick_gelu, source, weights, tensors)
    if weights is not None:
        table = _visual(tensors, weights)
        if cell is not None and resolution != native:
            table = fitted(table, native // cell, resolution // cell)
        load_exactly(visual, table, str(weights), assign=True)
    return ImageEncoder(visual.float(), resolution, config.output, config.keep_class_token, cell)


def native_resolution(config: ImageEncoderConfig) -> int:
    """The side of the images the model was trained on."""
    return _square(_architecture(config)["vision_cfg"].get("image_size", 224))


def _architecture(config: ImageEncoderConfig) -> dict[str, Any]:
    """`embed_dim`, `quick_gelu` and `vision_cfg` of the named model."""
    import open_clip

    if config.name == "custom":
        given = config.architecture or {}
        known = {"embed_dim", "quick_gelu", "vision_cfg"}
        if set(given) - known or not {"embed_dim", "vision_cfg"} <= set(given):
            raise UsageError(f"image_encoder.architecture has the keys {sorted(given)}, expected {sorted(known)}")
        fields = set(open_clip.CLIPVisionCfg.__dataclass_fields__)
        unknown = sorted(set(given["vision_cfg"]) - fields)
        if unknown:
            raise UsageError(f"image_encoder.architecture.vision_cfg: unknown {unknown}, known: {sorted(fields)}")
        return given
    if config.architecture is not None:
        raise UsageError(f"image_encoder.architecture goes with the name 'custom', not with {config.name!r}")
    names = open_clip.list_models()
    name = OPENAI_NAMES.get(config.name, config.name)
    if name not in names:  # checked here, for get_model_config would go to the hub for names with a scheme
        near = difflib.get_close_matches(config.name, [*OPENAI_NAMES, *names], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"unknown image encoder {config.name!r}.{hint} Known: {', '.join(OPENAI_NAMES)} and open_clip's model names"
        )
    return dict(open_clip.get_model_config(name))


def _square(size: int | tuple[int, int] | list[int]) -> int:
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UsageError(f"image encoders take square images, this one is made for {tuple(size)}")
    return size[0]


def _cell(vision_cfg: Mapping[str, Any]) -> int | None:
    """Pixels along the side of a patch of a ViT or a cell of a ResNet; None for timm's towers, which vary."""
    if vision_cfg.get("timm_model_name"):
        return None
    is_vit = isinstance(vision_cfg.get("layers", 12), int)
    return _square(vision_cfg.get("patch_size", 16)) if is_vit else RESNET_STRIDE


def _check_resolution(asked: str, encoder: str, resolution: int, native: int, cell: int | None) -> None:
    if cell is None:
        raise UsageError(f"{encoder} takes images of {native} pixels only, not of {resolution}")
    if resolution < cell or resolution % cell:
        raise UsageError(
            f"{asked} {resolution} is not a multiple of the patch size {cell} of {encoder} "
            f"(its own resolution is {native})"
        )


def _visual(tensors: Mapping[str, Tensor], weights: Path) -> dict[str, Tensor]:
    """The tensors of the visual tower, by the tower's own names."""
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    if not visual:
        raise WeightsError(f"{weights}: not a CLIP model, for no tensor of it has a name starting with 'visual.'")
    return visual


def _gives_tokens(visual: nn.Module) -> bool:
    """Whether the tower's rows are a transformer's tokens, rather than the cells of a convolutional network."""
    if not hasattr(visual, "trunk"):
        return not hasattr(visual, "layer4")
    trunk: Any = visual.trunk
    return "return_prefix_tokens" in inspect.signature(trunk.forward_intermediates).parameters


def _remove_head(visual: nn.Module) -> None:
    """Drop the parameters that only pooled features need: a part that gets no gradient breaks distributed training."""
    for name, nothing in (("attnpool", None), ("proj", None), ("head", nn.Identity())):
        if hasattr(visual, name):
            setattr(visual, name, nothing)
