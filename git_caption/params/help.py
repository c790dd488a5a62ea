"""Parameters of the job that explains jobs."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class HelpParams:
    """Keys of `help`."""

    job: str | None = key(
        None, help="the job to explain; None lists all of them", example="test_git_inference_single_tsv"
    )
