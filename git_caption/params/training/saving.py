"""What a run writes, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key

TRACKERS = ("none", "tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class SavingParams:
    """The output directory, the saves in it and the journal."""

    output_dir: str = key(help="checkpoint directory to write; one that holds a model is refused", kind="output_dir")
    save_every: int = key(500, minimum=1, help="steps between two saves that a stopped run can go on from")
    keep: int = key(2, minimum=1, help="saves that are kept")
    resume: Literal["auto", "none"] = key(
        "auto", help="auto goes on from the last save of a stopped run of the same command; none drops it"
    )
    log_every: int = key(50, minimum=1, help="steps between two lines of journal.csv")
    loss_save_path: str | None = key(
        None, help="NPY file to write with the loss of every step, in float64", kind="output_file"
    )
    report_to: tuple[str, ...] = key(
        ("none",), help=f"what is told of the losses too, one of {', '.join(TRACKERS)}, or several with commas"
    )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Trackers that are not known, as (keys concerned, message)."""
        for name in self._asked:
            if name not in TRACKERS:
                yield ("report_to",), f"'report_to': expected one or several of {', '.join(TRACKERS)}, found {name!r}"

    @property
    def trackers(self) -> list[str]:
        """The trackers asked for, each once."""
        return [name for name in TRACKERS[1:] if name in self._asked]

    @property
    def _asked(self) -> list[str]:
        return [name.strip() for text in self.report_to for name in text.split(",")]
