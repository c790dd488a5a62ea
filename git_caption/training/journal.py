"""The journal of a run: one CSV line every so many steps."""

from __future__ import annotations

import csv
import time
from pathlib import Path

COLUMNS = ("step", "epoch", "loss", "lr", "images_per_second", "seconds")


class Journal:
    """Writes `journal.csv`; each line is on disk when `write` returns.

    The loss of a line is the mean over the steps since the line before.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)
        self._began = self._last = time.perf_counter()
        self._losses: list[float] = []
        self._images = 0

    def add(self, loss: float, images: int) -> None:
        """Note one step."""
        self._losses.append(loss)
        self._images += images

    def write(self, step: int, epoch: float, lr: float) -> float:
        """Write the line of `step` and give the mean loss since the last one."""
        now = time.perf_counter()
        loss = sum(self._losses) / len(self._losses)
        speed = self._images / (now - self._last)
        line = (step, f"{epoch:.3f}", f"{loss:.5f}", f"{lr:.3e}", f"{speed:.1f}", f"{now - self._began:.1f}")
        self._writer.writerow(line)
        self._file.flush()
        self._losses, self._images, self._last = [], 0, now
        return loss

    def close(self) -> None:
        """Close the file."""
        self._file.close()
