"""What a source gives for a row: a sample, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from git_caption.tsv.rows import Question


@dataclass(frozen=True, eq=False)
class ImageSample:
    """An image and, where answers are asked for, its questions (empty where captions are).

    pixels: uint8[3, R, R]; uint8[3, H, W] where shapes are kept.
    """

    key: str
    pixels: npt.NDArray[np.uint8]
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A row that cannot be processed.

    lines: what stands in the output for it, so that later rows keep their places.
    """

    key: str
    reason: str
    lines: Sequence[Sequence[str]]
