"""What a source gives for a row: a sample, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from git_caption.params.features import What
from git_caption.tsv.rows import Question


@dataclass(frozen=True, eq=False)
class ImageSample:
    """An image and, where answers are asked for, its questions (empty where captions are).

    pixels: uint8[3, R, R]; uint8[3, H, W] where shapes are kept.
    base_pixels: as a base captioner takes the image; None where it takes the features of the pixels.
    """

    key: str
    pixels: npt.NDArray[np.uint8]
    questions: tuple[Question, ...] = ()
    base_pixels: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class FeatureSample:
    """What an image encoder gave for an image, or a captioner's mapper, and its questions as of an ImageSample.

    values: float[N, D_v]; of a prefix float[P, D_l].
    """

    key: str
    values: npt.NDArray[np.floating[Any]]
    what: What
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A row that cannot be processed.

    lines: what stands in the output for it, so that later rows keep their places.
    """

    key: str
    reason: str
    lines: Sequence[Sequence[str]]
