"""The training loop: steps of an objective over batches, with a journal."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from git_caption.errors import JobFailed
from git_caption.images.transform import normalise
from git_caption.params.model import TransformConfig
from git_caption.params.training import TrainingParams
from git_caption.samples.collate import Batch
from git_caption.samples.steps import TrainingSteps
from git_caption.training.journal import Journal
from git_caption.training.objectives import Objective
from git_caption.training.optimizer import build_optimizer


def run(
    objective: Objective,
    batches: TrainingSteps,
    params: TrainingParams,
    transform: TransformConfig,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Train what requires gradients in `objective.modules`; writes `journal.csv` in the output directory.

    Raises:
        JobFailed: the loss is not a finite number; names the step and its learning rate.
        DataError: a row that cannot be read; names file, row and key.
    """
    steps = max(1, round(params.epochs * batches.per_epoch))
    optimizer, schedule = build_optimizer(objective.modules, params, steps)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(steps),
        num_workers=params.num_workers,
        multiprocessing_context="spawn" if params.num_workers else None,
        prefetch_factor=4 if params.num_workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    journal = Journal(Path(params.output_dir) / "journal.csv")
    for module in objective.modules:
        # with channels last, convolutions on a CPU take half the time
        module.to(memory_format=torch.channels_last).train()
    try:
        for step, batch in enumerate(tqdm(loader, total=steps, unit="step", disable=not sys.stderr.isatty()), start=1):
            if not isinstance(batch, Batch):
                raise batch
            pixels = normalise(batch.pixels.to(device), transform.mean, transform.std)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            loss = objective.loss(pixels, batch)
            value = loss.item()
            if not math.isfinite(value):
                lr = float(schedule.get_last_lr()[0])
                raise JobFailed(f"the loss is {value} at step {step} (learning rate {lr:.2e}): lower --lr")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, params.max_grad_norm)
            lr = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            journal.add(value, len(batch.pixels))
            if step % params.log_every == 0 or step == steps:
                epoch = step / batches.per_epoch
                mean = journal.write(step, epoch, lr)
                say(f"step {step}/{steps}  epoch {epoch:.2f}  loss {mean:.4f}  lr {lr:.1e}")
    finally:
        journal.close()
    for module in objective.modules:
        module.eval()


def _leave_signals_to_the_main_process(_: int) -> None:
    """Run in each worker process: what stops a run may be sent to all its processes, and one of them answers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
