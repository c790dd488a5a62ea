"""What a run writes, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key


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
