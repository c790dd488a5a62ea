"""The journal of a run: one CSV line every so many steps."""

from __future__ import annotations

import csv
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from git_caption.tsv.writer import write_atomically

COLUMNS = ("step", "epoch", "loss", "lr", "images_per_second", "seconds")


@dataclass
class Pending:
    """What has been noted since the last line, and how long the run has taken up to the last save."""

    losses: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0


class Journal:
    """Writes `journal.csv`; each line is on disk when `write` returns.

    The loss of a line is the mean over the steps since the line before.
    """

    def __init__(self, path: Path, after: int = 0, saved: dict[str, Any] | None = None) -> None:
        """Begin a journal, or go on with one `after` a step, with what `state` gave then; later lines are cut off."""
        lines = [",".join(COLUMNS)]
        if after and path.exists():
            written = (
                path.read_bytes().decode("utf-8", "replace").split("\n")[1:-1]
            )  # a line that is cut short is not kept
            lines += [line for line in written if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= after]
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._pending = Pending(**(saved or {}))
        self._last = time.perf_counter()
        self._began = self._last - self._pending.seconds

    def add(self, loss: float, images: int) -> None:
        """Note one step."""
        self._pending.losses.append(loss)
        self._pending.images += images

    def write(self, step: int, epoch: float, lr: float) -> float:
        """Write the line of `step` and give the mean loss since the last one."""
        now = time.perf_counter()
        losses = self._pending.losses
        loss = sum(losses) / len(losses)
        speed = self._pending.images / (now - self._last)
        line = (step, f"{epoch:.3f}", f"{loss:.5f}", f"{lr:.3e}", f"{speed:.1f}", f"{now - self._began:.1f}")
        self._writer.writerow(line)
        self._file.flush()
        self._pending, self._last = Pending(), now
        return loss

    def state(self) -> dict[str, Any]:
        """What a journal that goes on from here has to know."""
        self._pending.seconds = time.perf_counter() - self._began
        return asdict(self._pending)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
