"""The losses of a training run as a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from git_caption.tsv.writer import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINED, VALIDATED, SHUFFLED, CIDER = "#4c78a8", "#e4572e", "#9a9a9a", "#2a9d6f"
MARKED = 40  # so many validations have a dot each, more are a line

Curve = tuple[list[int], list[float]]  # steps, and a value at each


def plot_losses(journal: Path, validation: Path | None, out: Path) -> None:
    """Draw `journal.csv` and, where there is one, `validation.csv` of a run as a PNG.

    Left axis: the losses of training, validation and of validation with shuffled pictures. Right axis: CIDEr.
    """
    from matplotlib.figure import Figure  # takes long to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, _curve(journal, "loss"), "training loss", TRAINED, linewidth=1.2)
    shuffled, cider = (_curve(validation, column) for column in ("shuffled_loss", "cider"))
    _draw(axes, _curve(validation, "loss"), "validation loss", VALIDATED, marker="o")
    _draw(axes, shuffled, "with shuffled pictures", SHUFFLED, marker="o", linestyle="--")
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token" if shuffled[0] else "loss")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    lines = axes.get_lines()
    if cider[0]:
        right = axes.twinx()
        _draw(right, cider, "CIDEr (right)", CIDER, marker="o")
        right.set_ylabel("CIDEr", color=CIDER)
        right.tick_params(axis="y", colors=CIDER)
        right.set_ylim(bottom=0, top=max(0.1, 1.1 * max(cider[1])))
        right.spines[["top", "left"]].set_visible(False)
        right.spines["right"].set_color(CIDER)
        lines = [*lines, *right.get_lines()]
    if lines:
        figure.legend(handles=list(lines), loc="outside upper center", ncols=len(lines), frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(out, picture.getvalue())


def _draw(
    axes: Axes, curve: Curve, label: str, color: str, *, marker: str = "", linestyle: str = "-", linewidth: float = 1.8
) -> None:
    steps, values = curve
    if steps:
        dot = marker if len(steps) <= MARKED else ""
        axes.plot(
            steps, values, label=label, color=color, linestyle=linestyle, linewidth=linewidth, marker=dot, markersize=4
        )


def _curve(path: Path | None, column: str) -> Curve:
    """A column of a CSV file over its steps, empty cells left out; nothing where there is no file."""
    if path is None:
        return [], []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
    return [int(row["step"]) for row in rows], [float(row[column]) for row in rows]
