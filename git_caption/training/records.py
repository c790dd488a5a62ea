"""All that a run writes for people while it goes on: the journals, the losses, the picture of both, and trackers."""

from __future__ import annotations

import io
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from git_caption.params.schema import to_dict
from git_caption.params.training.parts import CAPTIONING
from git_caption.params.training.run import TrainingParams
from git_caption.report.plots import plot_losses
from git_caption.training.journal import Journal, StepLines
from git_caption.training.trackers import Trackers
from git_caption.training.validation import Validated
from git_caption.tsv.writer import write_atomically

VALIDATION = ("step", "epoch", "loss", "shuffled_loss", "cider", "bleu_4", "distinct", "accuracy", "seconds")
CAPTIONS = ("step", "key", "question", "caption", "reference")
DRAWN_AFTER = 60.0  # seconds; the picture is drawn anew at most that often


class Records:
    """Writes `journal.csv`, `validation.csv`, `validation_captions.csv`, `loss.png` and what else was asked for.

    Only on the first process of a run.
    """

    def __init__(
        self,
        params: TrainingParams,
        after: int = 0,
        saved: dict[str, Any] | None = None,
        measures: Sequence[str] = (),
    ) -> None:
        """Begin the records, or go on with them `after` a step, with what `state` gave then; later lines are cut off.

        measures: names of what the objective computes beside the loss.

        Raises:
            UsageError: a tracker that refuses.
        """
        out = Path(params.saving.output_dir)
        saved = saved or {"journal": None, "losses": torch.empty(0), "trackers": None}
        self._out = out
        self._loss_save_path = params.saving.loss_save_path
        self._losses = array("d", saved["losses"].tolist())
        self._trackers = Trackers(params.saving.trackers, out, to_dict(params), after, saved["trackers"])
        self._measures = measures
        self._journal = Journal(out / "journal.csv", after, saved["journal"], measures)
        self._validation: StepLines | None = None
        self._captions: StepLines | None = None
        if params.validation.asked:
            self._validation = StepLines(out / "validation.csv", VALIDATION, after)
        if params.validation.asked and params.parts.objective in CAPTIONING:
            self._captions = StepLines(out / "validation_captions.csv", CAPTIONS, after)
        self._drawn = time.monotonic()

    def add(self, loss: float, images: int, measured: Sequence[float] = ()) -> None:
        """Note one step."""
        self._losses.append(loss)
        self._journal.add(loss, images, measured)

    def log(self, step: int, epoch: float, lr: float) -> dict[str, float]:
        """Write the journal's line of `step`; gives the mean loss and measures since the last one."""
        loss, measured, speed = self._journal.write(step, epoch, lr)
        means = {"loss": loss, **dict(zip(self._measures, measured, strict=True))}
        self._trackers.log({**means, "lr": lr, "epoch": epoch, "images_per_second": speed}, step)
        if time.monotonic() - self._drawn > DRAWN_AFTER:
            self._draw()
        return means

    def validated(self, step: int, epoch: float, found: Validated, seconds: float) -> None:
        """Write what the validation after `step` found; it took so many seconds."""
        self._journal.leave_out(seconds)
        scores = {
            "loss": found.loss,
            "shuffled_loss": found.shuffled_loss,
            "cider": found.cider,
            "bleu_4": found.bleu_4,
            "distinct": found.distinct,
            "accuracy": found.accuracy,
        }
        assert self._validation is not None, "there is a validation set"
        shown = ["" if score is None else f"{score:.5f}" for score in scores.values()]
        self._validation.write((step, f"{epoch:.3f}", *shown, f"{seconds:.1f}"))
        if self._captions is not None:
            captions = [(one.key, "", one.caption, one.references) for one in found.shown]
            answers = [(one.key, one.question, one.answer, one.references) for one in found.answers]
            self._captions.write(
                *(
                    (step, key, _one_line(question), text, _one_line(references[0]))
                    for key, question, text, references in (*captions, *answers)
                )
            )
        self._trackers.log({f"validation/{name}": score for name, score in scores.items()}, step)

    def state(self) -> dict[str, Any]:
        """What records that go on from here have to know."""
        return {
            "journal": self._journal.state(),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            "trackers": self._trackers.state(),
        }

    def finish(self) -> None:
        """Write what is written once: the picture, and the file of losses."""
        self._draw()
        if self._loss_save_path is not None:
            content = io.BytesIO()
            np.save(content, np.array(self._losses, dtype=np.float64))
            Path(self._loss_save_path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._loss_save_path, content.getvalue())

    def close(self) -> None:
        """Close the files."""
        for lines in (self._journal, self._validation, self._captions, self._trackers):
            if lines is not None:
                lines.close()

    def _draw(self) -> None:
        validation = None if self._validation is None else self._out / "validation.csv"
        plot_losses(self._out / "journal.csv", validation, self._out / "loss.png")
        self._drawn = time.monotonic()


def _one_line(text: str) -> str:
    return " ".join(text.split())
