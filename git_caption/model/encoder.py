"""What every image encoder is: pixels in, features out.

    pixels float32[B, 3, R, R] -> visual tower -> Features(values float[B, N, D_v], mask bool[B, N])

Shape letters: B batch, R resolution, N image tokens, D_v vision width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from git_caption.errors import UsageError, WeightsError


@dataclass(frozen=True, eq=False)
class Features:
    """What an image encoder gives: `values` float[B, N, D_v] and `mask` bool[B, N], true where a row is real."""

    values: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> Self:
        """The features of the given images (long[M]), for several prompts on one image."""
        return replace(self, values=self.values[rows], mask=self.mask[rows])

    @staticmethod
    def joined(rows: Sequence[Features]) -> Features:
        """Those of several batches as one, padded on the right and masked where their N differ."""
        longest = max(row.mask.shape[1] for row in rows)
        padded = [functional.pad(row.values, (0, 0, 0, longest - row.mask.shape[1])) for row in rows]
        masks = [functional.pad(row.mask, (0, longest - row.mask.shape[1])) for row in rows]
        return Features(torch.cat(padded), torch.cat(masks))


class Beside(TypedDict, total=False):
    """What a language model is given beside embeddings and their mask, where it looks at images by cross-attention.

    seen: of B images, as `CrossAttention.see` gives it. images: long[R], the image of each row.
    """

    seen: Any
    images: Tensor


class Prefix(Features):
    """Features that went through the mapper already: `values` float[B, P, D_l] and `mask` bool[B, P]."""

    @property
    def beside(self) -> Beside:
        """What the language model is given beside the prefix: nothing."""
        return {}


class ImageEncoder(nn.Module):
    """A visual tower that gives `Features`. Subclasses know how to ask one library's towers.

    Attributes:
        visual: the tower.
        width: D_v, the width of a row of features.
        tokens: N, the number of rows per image.
        resolution: the side of the square images it takes.
        cell: pixels along a patch or cell; None where the tower takes no other resolution.
        any_shape: whether it also takes images of other shapes, a whole number of cells high and wide.
        architecture: what a config needs to rebuild the tower where its name alone does not say; else None.
    """

    def __init__(
        self,
        visual: nn.Module,
        resolution: int,
        output: str = "grid",
        keep_class_token: bool = True,
        cell: int | None = None,
        architecture: dict[str, Any] | None = None,
    ) -> None:
        """Wrap `visual`; on grid its projection or pooling head is removed, for it is not used."""
        super().__init__()
        self.visual = visual
        self.resolution = resolution
        self.cell = cell
        self.any_shape = False
        self.output = output
        self.keep_class_token = keep_class_token
        self.architecture = architecture
        if output == "grid":
            self._remove_head()
        self.train(self.training)
        self.tokens, self.width = self._output_shape()

    def forward(self, pixels: Tensor) -> Features:
        """Encode pixels float[B, 3, R, R], or float[B, 3, H, W] of any shape where it was told to take them.

        Raises:
            UsageError: the images are not of the encoder's resolution, nor of another shape that it takes.
        """
        self._check_shape(pixels)
        values = self._values(pixels.to(next(self.visual.parameters()).dtype))
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def take(self, resolution: int, *, any_shape: bool) -> None:
        """From now on take images of this resolution; with `any_shape` also others, whole cells high and wide.

        Raises:
            UsageError: the tower's positions are fixed, or its cells do not divide the resolution.
        """
        if any_shape and not self._takes_shapes:
            raise UsageError(
                f"the image encoder takes squares of {self.resolution} pixels only: leave out "
                "'test_respect_ratio_max', or 'resize': 'keep' of the checkpoint's transform"
            )
        if resolution != self.resolution:
            check_resolution("test_crop_size", "the image encoder", resolution, self.resolution, self.cell)
            self._fit(resolution)
            self.resolution = resolution
            self.tokens, self.width = self._output_shape()
        self.any_shape = any_shape

    def train(self, mode: bool = True) -> ImageEncoder:
        """As `nn.Module.train`, with batch normalisation kept on its stored statistics.

        The statistics come from CLIP's batches of thousands; a few captioning batches would only spoil them.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @property
    def _takes_shapes(self) -> bool:
        """Whether the tower can be told to take images that are not square."""
        return self.cell is not None

    def _check_shape(self, pixels: Tensor) -> None:
        if pixels.dim() == 4 and pixels.shape[1:] == (3, self.resolution, self.resolution):
            return
        height, width = pixels.shape[-2:]
        cell = self.cell if self.any_shape else None
        if cell and pixels.dim() == 4 and min(height, width) >= cell and height % cell == width % cell == 0:
            return
        also = f", or of another shape in multiples of {cell}," if cell else ""
        raise UsageError(
            f"the image encoder takes pixels [B, 3, {self.resolution}, {self.resolution}]{also} and was given "
            f"{list(pixels.shape)}: input_resolution of the images and of the encoder must be the same"
        )

    def _fit(self, resolution: int) -> None:
        """Make the tower take another resolution, for good."""
        raise NotImplementedError

    def _values(self, pixels: Tensor) -> Tensor:
        """The rows float[B, N, D_v] of what `output` says."""
        return self._grid(pixels) if self.output == "grid" else self._pooled(pixels).unsqueeze(1)

    def _grid(self, pixels: Tensor) -> Tensor:
        """Rows float[B, N, D_v] of pixels float[B, 3, H, W]."""
        raise NotImplementedError

    def _pooled(self, pixels: Tensor) -> Tensor:
        """One row each, float[B, D_v]."""
        raise NotImplementedError

    def _remove_head(self) -> None:
        """Drop the parameters that only pooled features need: one without a gradient breaks distributed training."""
        raise NotImplementedError

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


def visual_tensors(tensors: Mapping[str, Tensor], weights: Path) -> dict[str, Tensor]:
    """The tensors of the visual tower, by the tower's own names.

    Raises:
        WeightsError: the file holds none.
    """
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    if not visual:
        raise WeightsError(f"{weights}: holds no image encoder, for no tensor of it has a name starting with 'visual.'")
    return visual


def square_side(size: int | tuple[int, ...] | list[int]) -> int:
    """The side of images or patches, given as one number or as two equal ones.

    Raises:
        UsageError: they are not square.
    """
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UsageError(f"image encoders take square images, this one is made for {tuple(size)}")
    return int(size[0])


def check_resolution(asked: str, encoder: str, resolution: int, native: int, cell: int | None) -> None:
    """Refuse a resolution that is not a whole number of patches.

    Args:
        asked: the key that asks for it.
        encoder: the image encoder, in words.
        resolution: asked for.
        native: the encoder's own, always taken.
        cell: pixels along the side of a patch or cell; None where the encoder takes no other resolution.

    Raises:
        UsageError: the patch size does not divide it.
    """
    if resolution == native:
        return
    if cell is None:
        raise UsageError(f"{encoder} takes images of {native} pixels only, not of {resolution}")
    if resolution < cell or resolution % cell:
        raise UsageError(
            f"{asked} {resolution} is not a multiple of the patch size {cell} of {encoder} (its own resolution is "
            f"{native})"
        )
