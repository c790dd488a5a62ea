"""The journal of a run: CSV files whose lines begin with the step, and go on where a save was made."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from git_caption.tsv.writer import write_atomically

BEFORE, AFTER = ("step", "epoch", "loss"), ("lr", "images_per_second", "seconds")  # what an objective measures


class StepLines:
    """A CSV file with a line, or some, for each of some steps; each is on disk when `write` returns."""

    def __init__(self, path: Path, columns: Sequence[str], after: int = 0) -> None:
        """Begin a file, or go on with one `after` a step; later lines are cut off."""
        lines = [",".join(columns)]
        if after and path.exists():
            written = path.read_bytes().decode("utf-8", "replace").split("\n")[1:-1]  # a line cut short is not kept
            lines += [line for line in written if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= after]
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._writer = csv.writer(self._file, lineterminator="\n")

    def write(self, *lines: Sequence[object]) -> None:
        """Write lines, each of which begins with its step. No column holds a line end."""
        self._writer.writerows(lines)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Pending:
    """What has been noted since the last line, and how long the run has taken up to the last save."""

    losses: list[float] = field(default_factory=list)
    measures: list[list[float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0


class Journal:
    """Writes `journal.csv`. Losses and measures of a line are means over the steps since the line before."""

    def __init__(
        self, path: Path, after: int = 0, saved: dict[str, Any] | None = None, measures: Sequence[str] = ()
    ) -> None:
        """Begin a journal, or go on with one `after` a step, with what `state` gave then; later lines are cut off.

        measures: names of what has a column beside the loss.
        """
        self._lines = StepLines(path, (*BEFORE, *measures, *AFTER), after)
        self._pending = Pending(**(saved or {}))
        self._last = time.perf_counter()
        self._began = self._last - self._pending.seconds

    def add(self, loss: float, images: int, measured: Sequence[float] = ()) -> None:
        """Note one step."""
        self._pending.losses.append(loss)
        self._pending.measures.append(list(measured))
        self._pending.images += images

    def leave_out(self, seconds: float) -> None:
        """Time that has passed, but with no step: images per second do not count it."""
        self._last += seconds

    def write(self, step: int, epoch: float, lr: float) -> tuple[float, list[float], float]:
        """Write the line of `step`; gives the mean loss and measures since the last one, and images per second."""
        now = time.perf_counter()
        losses = self._pending.losses
        loss = sum(losses) / len(losses)
        measured = [fmean(values) for values in zip(*self._pending.measures, strict=True)]
        speed = self._pending.images / (now - self._last)
        shown = [f"{value:.5f}" for value in (loss, *measured)]
        self._lines.write((step, f"{epoch:.3f}", *shown, f"{lr:.3e}", f"{speed:.1f}", f"{now - self._began:.1f}"))
        self._pending, self._last = Pending(), now
        return loss, measured, speed

    def state(self) -> dict[str, Any]:
        """What a journal that goes on from here has to know."""
        self._pending.seconds = time.perf_counter() - self._began
        return asdict(self._pending)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
