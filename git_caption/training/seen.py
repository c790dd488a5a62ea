"""What an objective is shown of a batch's pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from git_caption.images.transform import normalise
from git_caption.model.vision import Features
from git_caption.params.model import TransformConfig
from git_caption.samples.collate import Batch


def seen(batch: Batch, transform: TransformConfig, device: torch.device) -> Tensor | Features:
    """Normalised pixels float32[B, 3, R, R], channels last, or features, on the device."""
    if not isinstance(batch.seen, Tensor):
        values, mask = batch.seen
        return Features(values.to(device), mask.to(device))
    pixels = normalise(batch.seen.to(device), transform.mean, transform.std)
    return pixels.contiguous(memory_format=torch.channels_last)
