"""What a run did, as its last line tells it."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Summary:
    """What a run did.

    steps: the last one. seconds, images_per_second: of the steps, without validations. validating: seconds of these.
    skipped: pictures that could not be read, or of which captions could not be used. cut: captions and answers that
    were too long.
    weights: which ones are left.
    """

    steps: int
    seconds: float
    images_per_second: float
    validating: float
    trained_parameters: int
    parameters: int
    peak_memory: int
    skipped: int
    cut: int
    weights: str

    def __str__(self) -> str:
        validating = f" and {self.validating:.0f} s of validation" if self.validating >= 1 else ""
        said = (
            f"{self.steps} steps in {self.seconds:.0f} s, {self.images_per_second:.1f} images/s{validating}; "
            f"{self.trained_parameters:,} of {self.parameters:,} parameters trained; "
            f"peak memory {self.peak_memory / 2**30:.2f} GiB"
        )
        if self.cut:
            said += f"; {self.cut} captions or answers cut"
        if self.skipped:
            said += f"; {self.skipped} pictures skipped, or captions of theirs, listed in skipped.tsv"
        return f"{said}\nweights of {self.weights}"


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has held, in bytes: the GPU's where it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    kibibytes = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
