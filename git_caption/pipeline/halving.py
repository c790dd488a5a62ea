"""Batches that the device's memory is too small for: halved, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from git_caption.captioner.captioner import Features
from git_caption.errors import JobFailed

Pixels = Sequence[npt.NDArray[np.uint8]]


class Encoder(Protocol):
    """What gives features: a captioner, or an image encoder by itself."""

    @property
    def device(self) -> torch.device:
        """Where they are computed."""

    def encode_many(self, pixels: Pixels, batch_size: int) -> Features:
        """The features of images uint8[3, H, W], `batch_size` of one shape at once."""


class Halving:
    """Goes on with smaller batches where memory is short.

    Attributes:
        count: how often a batch was halved.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = 0

    def encoded(self, encoder: Encoder, pixels: Pixels, batch_size: int) -> Features:
        """The features of images, in smaller batches where need be. Raises JobFailed as `note`."""
        try:
            return encoder.encode_many(pixels, batch_size)
        except torch.OutOfMemoryError as error:
            self.note(batch_size, error)
        return self.encoded(encoder, pixels, batch_size // 2)  # not above: there the error holds on to memory

    def note(self, size: int, error: torch.OutOfMemoryError) -> None:
        """A batch of this size was too large. Raises JobFailed where it cannot be halved."""
        if size == 1:
            first_line = str(error).strip().splitlines()[0]
            raise JobFailed(
                f"the memory of {self.device} does not hold the computation of one row ({first_line}); run "
                "the same command again where more is free"
            ) from error
        self.count += 1
