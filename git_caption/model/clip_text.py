"""A small CLIP text tower, used to train an image encoder from nothing (https://arxiv.org/abs/2103.00020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from git_caption.errors import UsageError

MAX_SCALE = 100.0  # CLIP's bound on the temperature, without which training becomes unstable


class ClipText(nn.Module):
    """A causal transformer over token ids whose last real position is projected to the shared space.

    Shape letters: B batch, T text length, W width, D embedding width shared with the image encoder.
    """

    def __init__(self, width: int, layers: int, heads: int, context: int, vocab: int, embed_dim: int) -> None:
        """Build with random weights, initialised as CLIP's."""
        super().__init__()
        self.context = context
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.ln_final = nn.LayerNorm(width)
        self.projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Embed long[B, T] ids, right-padded, of the given lengths long[B], as float[B, D].

        Raises:
            UsageError: a text longer than the context, or an empty one.
        """
        batch, length = token_ids.shape
        if length > self.context:
            raise UsageError(f"texts of {length} tokens for a text tower with a context of {self.context}")
        if int(lengths.min()) < 1 or int(lengths.max()) > length:
            raise UsageError(f"text lengths from {int(lengths.min())} to {int(lengths.max())}, expected 1 to {length}")
        rows = self.token_embedding(token_ids) + self.positional_embedding[:length]
        # causal, so that padding on the right cannot reach the position that is read
        causal = torch.ones(length, length, dtype=torch.bool, device=token_ids.device).triu(1)
        rows = self.ln_final(self.transformer(rows, mask=causal, is_causal=True))
        last = rows[torch.arange(batch, device=rows.device), lengths - 1]
        embedded: Tensor = last @ self.projection
        return embedded

    def contrastive_logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosine similarities float[B, B] of images float[B, D] (rows) and texts float[B, D] (columns)."""
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        return scale * nn.functional.normalize(images, dim=-1) @ nn.functional.normalize(texts, dim=-1).T
