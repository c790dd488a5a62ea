"""TensorBoard and Weights & Biases, where a run is asked to report to them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from git_caption.errors import UsageError, reason

PROJECT = "git_caption"
INSTALL = {"tensorboard": "'git-caption[tensorboard]'", "wandb": "wandb"}


class Tracker(Protocol):
    """What accelerate's trackers have in common."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Note values of a step."""

    def finish(self) -> None:
        """Send what is left."""


def require_installed(names: Collection[str]) -> None:
    """Raise UsageError if one of these trackers is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(f"'report_to': {name} is not installed: pip install {INSTALL[name]}")


class Trackers:
    """The trackers of a run; TensorBoard's files are in `OUT/tensorboard`, those of W&B in `OUT/wandb`.

    W&B's own settings hold: WANDB_MODE=offline sends nothing, WANDB_PROJECT names the project.
    """

    def __init__(
        self, names: Collection[str], output_dir: Path, config: Mapping[str, Any], after: int, saved: str | None
    ) -> None:
        """Begin, or go on `after` a step with what `state` gave then.

        Raises:
            UsageError: W&B refuses, for lack of a key or of a connection.
        """
        self._wandb_id = saved or uuid4().hex[:8]
        self._trackers: list[Tracker] = []
        for name in names:
            self._trackers.append(
                self._tensorboard(output_dir, after) if name == "tensorboard" else self._wandb(output_dir, config)
            )

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Report what is known of these values."""
        known = {name: value for name, value in values.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(known, step=step)

    def state(self) -> str:
        """What trackers that go on from here have to know: the id of the run at W&B."""
        return self._wandb_id

    def close(self) -> None:
        """Send what is left."""
        for tracker in self._trackers:
            tracker.finish()

    def _tensorboard(self, output_dir: Path, after: int) -> Tracker:
        from accelerate.tracking import TensorBoardTracker

        # what a stopped run had reported of later steps is shown no longer
        tracker = TensorBoardTracker("tensorboard", output_dir, purge_step=after + 1 if after else None)
        tracker.start()
        return tracker  # type: ignore[no-any-return]

    def _wandb(self, output_dir: Path, config: Mapping[str, Any]) -> Tracker:
        from accelerate.tracking import WandBTracker

        told = {"name": output_dir.name, "dir": str(output_dir), "id": self._wandb_id, "resume": "allow"}
        tracker = WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), config=dict(config), **told)
        try:
            tracker.start()
        except Exception as error:  # its errors have classes of their own
            raise UsageError(
                f"'report_to': wandb refuses: {reason(error)}; `wandb login` first, or set WANDB_MODE=offline"
            ) from error
        return tracker  # type: ignore[no-any-return]
