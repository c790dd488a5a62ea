"""Mixing: the prefixes of several image encoders become one prefix.

    pixels  -> JointEncoder -> features of all encoders -> MixedMapper: mappers -> mixing -> prefix float[B, P, D_l]

Each encoder has a mapper of its own. What all of them see, and what all of them give, is one row: strips of pixels and
rows of features hold one encoder's numbers after the other's, so that whatever carries the pixels and features of one
encoder (batches, caches, processes) carries those of several.

Shape letters: B batch, E encoders, R resolution of an encoder, N image tokens and D_v vision width of an encoder,
S numbers of all encoders, P prefix length, D_l language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from git_caption.errors import UsageError
from git_caption.model.encoder import Features, ImageEncoder
from git_caption.model.mapping import Mapper, build_mapper
from git_caption.params.model import EncoderConfig, MapperConfig, MixingType, TransformConfig


class Mixing(nn.Module):
    """Prefixes float[B, E, P, D_l] to one float[B, P, D_l]; begins as their mean.

    As in Jhryu30/cvpr2023_challenge_clipcap: `cnn` has a weight for each encoder, `hprod` one for each number of each
    prefix, `mix-qdim` a matrix [D_l, E * D_l] for each row of all prefixes. None has a bias.
    """

    def __init__(self, kind: MixingType, encoders: int, length: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        shape = {
            "cnn": (1, encoders, 1, 1),
            "hprod": (1, encoders, length, width),
            "mix-qdim": (width, encoders * width),
        }[kind]
        weight = torch.full(shape, 1 / encoders)
        if kind == "mix-qdim":
            weight = torch.eye(width).repeat(1, encoders) / encoders
        self.weight = nn.Parameter(weight)

    def forward(self, prefixes: Tensor) -> Tensor:
        """Mix float[B, E, P, D_l] into float[B, P, D_l]."""
        match self.kind:
            case "cnn":
                return functional.conv2d(prefixes, self.weight).squeeze(1)
            case "hprod":
                return (prefixes * self.weight).sum(1)
            case _:
                joined = prefixes.transpose(1, 2).flatten(2)  # [B, P, E * D_l]
                return functional.linear(joined, self.weight)


class JointEncoder(ImageEncoder):
    """Several image encoders as one, that sees strips of pixels and gives one row of features.

    Attributes:
        encoders: the towers.
        width: S, the numbers that all of them give for an image.
    """

    def __init__(self, encoders: Sequence[ImageEncoder], transforms: Sequence[TransformConfig]) -> None:
        """Join towers, each with how it sees images."""
        nn.Module.__init__(self)
        self.encoders = nn.ModuleList(encoders)
        self.norms = [(transform.mean, transform.std) for transform in transforms]
        self.resolution = encoders[0].resolution
        self.cell = None
        self.any_shape = False
        self.output = encoders[0].output
        self.architecture = None
        self.tokens, self.width = 1, sum(encoder.tokens * encoder.width for encoder in encoders)

    def forward(self, pixels: Tensor) -> Features:
        """Encode strips float[B, 3, 1, S] of the pixels of all encoders, in [0, 1]; each is normalised as its own.

        Raises:
            UsageError: strips of another length.
        """
        ends = list(accumulate((encoder.resolution**2 for encoder in self.towers), initial=0))
        if pixels.shape[1:] != (3, 1, ends[-1]):
            raise UsageError(
                f"{len(ends) - 1} image encoders take strips of pixels [B, 3, 1, {ends[-1]}] and were given "
                f"{list(pixels.shape)}"
            )
        rows = []
        for encoder, (mean, std), (start, end) in zip(self.towers, self.norms, pairwise(ends), strict=True):
            square = pixels[..., start:end].reshape(len(pixels), 3, encoder.resolution, encoder.resolution)
            rows.append(encoder(_normalised(square, mean, std)).values.flatten(1))
        values = torch.cat(rows, dim=1)[:, None]  # [B, 1, S]
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def take(self, resolution: int, *, any_shape: bool) -> None:
        """Raises UsageError where this is not what the encoders were trained with."""
        if any_shape or resolution != self.resolution:
            raise UsageError(
                "several image encoders see images each in its own way: leave out 'test_crop_size' and "
                "'test_respect_ratio_max'"
            )

    @property
    def towers(self) -> list[ImageEncoder]:
        """The encoders."""
        return list(self.encoders)  # type: ignore[arg-type]


class StoredEncoder(ImageEncoder):
    """Stands where there is no image encoder, for stored prefixes are given. `width`: S, their numbers."""

    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.resolution, self.cell, self.any_shape, self.architecture = 0, None, False, None
        self.output, self.tokens, self.width = "grid", 1, width

    def forward(self, pixels: Tensor) -> Features:
        """Raises UsageError."""
        raise UsageError(NO_IMAGES)

    def take(self, resolution: int, *, any_shape: bool) -> None:
        """No image is seen, so that there is nothing to take."""


NO_IMAGES = (
    "prefixes that other captioners have stored are mixed, and no image is looked at: give 'features', a file of each "
    "with commas, in place of images"
)


class MixedMapper(nn.Module):
    """The mappers of several image encoders, and the mixing of what they give.

    Attributes:
        mappers: one for each encoder; none where stored prefixes are mixed.
        mixing: of the prefixes.
        length: P.
    """

    keeps_rows = False

    def __init__(
        self, mappers: Sequence[Mapper], mixing: Mixing, shapes: Sequence[tuple[int, int]], length: int, normalize: bool
    ) -> None:
        """Join mappers; `shapes` are (N, D_v) of each encoder, `normalize` is the mappers' own."""
        super().__init__()
        self.mappers = nn.ModuleList(mappers)
        self.mixing = mixing
        self.shapes = list(shapes)
        self.length = length
        self.normalize = normalize

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Map the features float[B, 1, S] of all encoders to one prefix float[B, P, D_l].

        Raises:
            UsageError: they are of another width, or prefixes are needed and there are none.
        """
        sizes = [tokens * width for tokens, width in self.shapes]
        if values.shape[1:] != (1, sum(sizes)):
            raise UsageError(
                f"the features of {len(sizes)} image encoders are [B, 1, {sum(sizes)}], given were "
                f"{list(values.shape)}" + ("" if len(self.mappers) else f"; {NO_IMAGES}")
            )
        parts = torch.split(values[:, 0], sizes, dim=1)
        prefixes = [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        if self.mappers:
            prefixes = [self._mapped(mapper, rows) for mapper, rows in zip(self.mappers, prefixes, strict=True)]
        mixed: Tensor = self.mixing(torch.stack(prefixes, dim=1))  # [B, E, P, D_l] -> [B, P, D_l]
        return mixed

    def _mapped(self, mapper: Any, rows: Tensor) -> Tensor:
        if self.normalize:
            rows = functional.normalize(rows.float(), dim=-1).to(rows.dtype)
        mapped: Tensor = mapper(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device))
        return mapped


def join(
    kind: MixingType,
    encoders: Sequence[ImageEncoder],
    described: Sequence[EncoderConfig],
    mapper: MapperConfig,
    language_width: int,
) -> tuple[JointEncoder, MixedMapper]:
    """Several image encoders as one, and their mappers with random weights before a mixing.

    Args:
        kind: of mixing.
        encoders: the towers.
        described: what each is.
        mapper: the config of every mapper.
        language_width: of the language model.

    Raises:
        UsageError: as `build_mapper`, or prefixes of different lengths.
    """
    pooled = described[0].image_encoder.output == "pooled"
    mappers = [build_mapper(mapper, encoder.width, language_width, pooled) for encoder in encoders]
    lengths = [
        encoder.tokens if built.keeps_rows else mapper.prefix_length
        for encoder, built in zip(encoders, mappers, strict=True)
    ]
    if len(set(lengths)) > 1:
        names = [one.image_encoder.name for one in described]
        listed = ", ".join(f"{length} rows of {name!r}" for name, length in zip(names, lengths, strict=True))
        raise UsageError(
            f"'mixing': mapper {mapper.type!r} makes a prefix of {listed}, and {kind} mixes prefixes of one length: "
            "set 'image_encoder.output' to pooled, or 'mapper.type' to transformer, which gives 'prefix_length' rows"
        )
    shapes = [(encoder.tokens, encoder.width) for encoder in encoders]
    mixing = Mixing(kind, len(encoders), lengths[0], language_width)
    joint = JointEncoder(encoders, [one.transform for one in described])
    return joint, MixedMapper(mappers, mixing, shapes, lengths[0], mapper.normalize)


def join_stored(kind: MixingType, sources: int, length: int, language_width: int) -> tuple[StoredEncoder, MixedMapper]:
    """The mixing of stored prefixes: `sources` of them, each of `length` rows of the language model's width."""
    mixing = Mixing(kind, sources, length, language_width)
    shapes = [(length, language_width)] * sources
    return StoredEncoder(sources * length * language_width), MixedMapper([], mixing, shapes, length, normalize=False)


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Of pixels [B, 3, R, R] in [0, 1], as one encoder takes them."""
    by_channel = [
        torch.tensor(values, dtype=pixels.dtype, device=pixels.device)[:, None, None] for values in (mean, std)
    ]
    return (pixels - by_channel[0]) / by_channel[1]
