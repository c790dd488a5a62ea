"""Small runs of train.py: four pictures a step, the data for them, and the losses that they leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from git_caption.jobs.shapes import make
from git_caption.params.shapes import ShapesDataParams
from git_caption.training.main import main
from git_caption.tsv.rows import CaptionRow
from git_caption.tsv.writer import TsvWriter
from tests import hub_cache

HASTE = {"bs": 4, "lr": 1e-2, "warmup_steps": 0, "num_workers": 0, "log_every": 1, "device": "cpu"}


def run(out: Path, **values: Any) -> int:
    """Train into `out`; the exit code."""
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps({"output_dir": str(out), **HASTE, **values}))
    return main(["--config", str(path)])


def losses(out: Path) -> list[float]:
    """Those of all steps."""
    with open(out / "journal.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def scenes(folder: Path) -> None:
    """Sixteen pictures, `train.img.tsv`, and captions that language models of `hub_cache` can spell, `short.tsv`."""
    make(ShapesDataParams(out_dir=str(folder), train=16, test=2))
    with TsvWriter(folder / "short.tsv") as writer:
        for number, line in enumerate((folder / "train.img.tsv").read_text().splitlines()):
            writer.write(CaptionRow(line.split("\t")[0], (hub_cache.TEXTS[number % 4],)).columns())
