"""Tables of learnt positions [1 + side * side, D]: one of its own, then the cells of a square grid, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def is_table(name: str, tensor: Tensor, side: int) -> bool:
    """Whether a tensor holds the positions of a grid of `side` cells a side."""
    return name.endswith("positional_embedding") and len(tensor) == 1 + side * side


def interpolated(table: Tensor, side: int, grid: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """The table of a grid of (rows, columns), the first position kept; in float32 or better.

    With `antialias` as open_clip interpolates to another resolution, without as GenerativeImage2Text to another shape.
    """
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    cells = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    cells = nn.functional.interpolate(cells, size=grid, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([table[:1], cells.permute(0, 2, 3, 1).flatten(0, 2)])


def fitted(tensors: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """The tensors with their tables of positions interpolated from a grid of `old` cells a side to one of `new`."""
    return {
        name: interpolated(tensor, old, (new, new), antialias=True) if is_table(name, tensor, old) else tensor
        for name, tensor in tensors.items()
    }


def fit(module: nn.Module, old: int, new: int) -> None:
    """Replace the tables of positions in a module as `fitted` does."""
    tables = {name: table for name, table in module.named_parameters() if is_table(name, table, old)}
    for name, table in fitted(tables, old, new).items():
        owner, _, attribute = name.rpartition(".")
        old_table = tables[name]
        parameter = nn.Parameter(table.detach().to(old_table.dtype), requires_grad=old_table.requires_grad)
        setattr(module.get_submodule(owner), attribute, parameter)
