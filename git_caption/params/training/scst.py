"""Self-critical sequence training: what captions are drawn, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key

DEFAULT_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class ScstParams:
    """Keys of objective scst."""

    scst_samples: int | None = key(
        None, minimum=1, help=f"captions drawn of each picture in a step; None: {DEFAULT_SAMPLES}"
    )
    scst_baseline: Literal["greedy", "mean"] | None = key(
        None,
        help="what a drawn caption is compared with: greedy, the reward of the greedy caption; mean, the mean of "
        "those of the picture's other drawn captions, which saves a search; None: mean",
    )

    @property
    def samples(self) -> int:
        """`scst_samples`, with None settled."""
        return self.scst_samples or DEFAULT_SAMPLES

    @property
    def baseline(self) -> Literal["greedy", "mean"]:
        """`scst_baseline`, with None settled."""
        return self.scst_baseline or "mean"

    @property
    def given(self) -> list[str]:
        """The keys that were given."""
        return [name for name in ("scst_samples", "scst_baseline") if getattr(self, name) is not None]

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A mean of no others, as (keys concerned, message)."""
        if self.baseline == "mean" and self.samples == 1:
            message = (
                "'scst_samples': the mean of the other captions needs 2 at least; or set 'scst_baseline' to greedy"
            )
            yield ("scst_samples", "scst_baseline"), message
