"""Mappers: from the image encoder's features to a prefix of the language model's width.

    values float[B, N, D_v], mask bool[B, N] -> mapper -> float[B, P, D_l]

`linear` and `linearLn` map each row by itself and `encoder_layer` lets the rows see each other (P = N); `mlp` and
`transformer` give a fixed number of rows.
Parameter names are those of the tools these mappers come from, so that their files need only another prefix.

Shape letters: B batch, N image tokens, D_v vision width, P prefix length, D_l language width, C clip length, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from git_caption.errors import UsageError

if TYPE_CHECKING:
    from git_caption.params.model import MapperConfig

FEED_FORWARD = 2048  # inner width of `encoder_layer`, whatever its rows'


class LinearMapper(nn.Linear):
    """One linear layer, applied to each row of features."""

    keeps_rows = True  # P = N, and a row's mask holds for what it becomes

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Map float[B, N, D_v] to float[B, N, D_l]; rows do not see each other, so the mask is not needed."""
        return super().forward(values)


class LinearNormMapper(nn.Sequential):
    """One linear layer and a LayerNorm, applied to each row of features."""

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__(nn.Linear(vision_width, language_width), nn.LayerNorm(language_width))

    keeps_rows = True  # P = N, and a row's mask holds for what it becomes

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Map float[B, N, D_v] to float[B, N, D_l]; rows do not see each other, so the mask is not needed."""
        linear, norm = self
        normalised: Tensor = norm(linear(values))
        return normalised


class MlpMapper(nn.Module):
    """ClipCap's MLP (https://arxiv.org/abs/2111.09734): from one pooled row to P rows, through half their width."""

    keeps_rows = False

    def __init__(self, vision_width: int, language_width: int, length: int) -> None:
        super().__init__()
        self.length = length
        hidden = language_width * length // 2
        self.model = nn.Sequential(
            nn.Linear(vision_width, hidden), nn.Tanh(), nn.Linear(hidden, language_width * length)
        )

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Map float[B, 1, D_v] to float[B, P, D_l]."""
        flat: Tensor = self.model(values[:, 0])
        return flat.view(len(values), self.length, -1)


class TransformerMapper(nn.Module):
    """ClipCap's transformer (https://arxiv.org/abs/2111.09734): learnt constants that read the image.

    Pooled features become C rows by one wide linear layer. On grid, each row of features is projected to one row
    instead, and masked rows are not attended to. P learnt constants follow the rows; what the layers make of the
    constants is the prefix.
    """

    keeps_rows = False

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        length: int,
        clip_length: int,
        layers: int,
        heads: int,
        pooled: bool,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.linear = nn.Linear(vision_width, language_width * (clip_length if pooled else 1))
        self.prefix_const = nn.Parameter(torch.randn(length, language_width))
        self.transformer = Layers(language_width, layers, heads)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Map float[B, N, D_v] to float[B, P, D_l]."""
        length, width = self.prefix_const.shape
        batch = len(values)
        rows = self.linear(values).reshape(batch, -1, width)  # [B, C or N, D_l]
        if self.pooled:
            mask = mask.expand(batch, rows.shape[1])  # the one pooled row became all of them
        constants = self.prefix_const.to(rows.dtype).expand(batch, length, width)
        seen = torch.cat([mask, mask.new_ones(batch, length)], dim=1)
        mapped: Tensor = self.transformer(torch.cat([rows, constants], dim=1), seen)
        return mapped[:, -length:]


class Layers(nn.Module):
    """The layers of `TransformerMapper`, one after the other, with no last norm."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        """Map float[B, L, D_l], attending to the rows true in `seen` bool[B, L]."""
        for layer in self.layers:
            rows = layer(rows, seen)
        return rows


class Layer(nn.Module):
    """A pre-norm transformer layer with ReLU and an MLP twice as wide as its rows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        """Map float[B, L, D_l], attending to the rows true in `seen` bool[B, L]."""
        rows = rows + self.attn(self.norm1(rows), seen)
        mapped: Tensor = rows + self.mlp(self.norm2(rows))
        return mapped


class Attention(nn.Module):
    """Self-attention whose queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)  # keys first, then values
        self.project = nn.Linear(width, width)

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        """Map float[B, L, D_l], attending to the rows true in `seen` bool[B, L]."""
        batch, length, width = rows.shape

        def by_head(flat: Tensor) -> Tensor:
            return flat.view(batch, length, self.heads, width // self.heads).transpose(1, 2)  # [B, H, L, D_l / H]

        keys, values = self.to_keys_values(rows).chunk(2, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            by_head(self.to_queries(rows)), by_head(keys), by_head(values), attn_mask=seen[:, None, None, :]
        )
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Map float[B, L, D_l] row by row."""
        mapped: Tensor = self.fc2(functional.relu(self.fc1(rows)))
        return mapped


class EncoderLayerMapper(nn.TransformerEncoderLayer):
    """One post-norm transformer layer over the rows of features, whose width is the language model's already.

    generative-image-to-text calls it `transformer`. There the layer takes the batch for the sequence, and texts are
    made for one image at a time: each row attends to itself alone (`rows_attend` False).
    """

    keeps_rows = True  # P = N, and a row's mask holds for what it becomes

    def __init__(self, width: int, heads: int, rows_attend: bool) -> None:
        super().__init__(width, heads, FEED_FORWARD, batch_first=True)
        self.rows_attend = rows_attend

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Map float[B, N, D_l], attending to the rows true in `mask` bool[B, N]."""
        if not self.rows_attend:
            alone: Tensor = super().forward(values.reshape(-1, 1, values.shape[-1]))
            return alone.view(values.shape)
        mapped: Tensor = super().forward(values, src_key_padding_mask=~mask)
        return mapped


Mapper = LinearMapper | LinearNormMapper | MlpMapper | TransformerMapper | EncoderLayerMapper


def build_mapper(config: MapperConfig, vision_width: int, language_width: int, pooled: bool) -> Mapper:
    """Build the mapper of `config` between two widths, with random weights.

    Raises:
        UsageError: a mapper that cannot take these features, an unknown type, or heads that do not divide the width.
    """
    match config.type:
        case "linear":
            return LinearMapper(vision_width, language_width)
        case "linearLn":
            return LinearNormMapper(vision_width, language_width)
        case "mlp":
            if not pooled:
                raise UsageError(
                    "mapping_type 'mlp' maps one pooled feature, output_grid gives one per patch: use "
                    "'output_grid': False, or mapping_type 'linear', 'linearLn' or 'transformer'"
                )
            return MlpMapper(vision_width, language_width, config.prefix_length)
        case "transformer":
            _check_heads(config, language_width)
            return TransformerMapper(
                vision_width,
                language_width,
                config.prefix_length,
                config.clip_length,
                config.layers,
                config.heads,
                pooled,
            )
        case "encoder_layer":
            if vision_width != language_width:
                raise UsageError(
                    f"mapping_type 'encoder_layer' keeps the width of the features, {vision_width}, and the language "
                    f"model's is {language_width}: use parts of the same width, or another mapping_type"
                )
            _check_heads(config, language_width)
            return EncoderLayerMapper(language_width, config.heads, config.rows_attend)
        case unknown:
            raise UsageError(
                f"unknown mapping_type {unknown!r}, known: linear, linearLn, mlp, transformer, encoder_layer"
            )


def _check_heads(config: MapperConfig, language_width: int) -> None:
    if language_width % config.heads:
        raise UsageError(f"mapper.heads {config.heads} does not divide the language model's width {language_width}")
