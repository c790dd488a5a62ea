"""Where in a video a frame is: one learnt vector per frame position, added to the frame's features.

As in GIT: A Generative Image-to-text Transformer, https://arxiv.org/abs/2205.14100.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from git_caption.errors import DataError
from git_caption.model.encoder import Features


class TemporalEmbedding(nn.Module):
    """Vectors float[F, D_v] for up to F frames; zero at first, so that a new one changes nothing."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(positions, width))

    def forward(self, frames: Features) -> Features:
        """Add its position's vector to every row of each frame; `frames` are those of one video, in order.

        Raises:
            DataError: the video has more frames than there are positions.
        """
        count = len(frames.values)
        if count > len(self.weight):
            raise DataError(
                f"a video has {count} frames and the captioner has temporal positions for {len(self.weight)}: give it "
                f"at most {len(self.weight)} frames"
            )
        vectors: Tensor = self.weight[:count, None].to(frames.values)  # [F, 1, D_v]
        return Features(frames.values + vectors, frames.mask)
