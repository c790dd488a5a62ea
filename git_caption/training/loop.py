"""The training loop: steps of an objective over batches, saved now and then, with a journal.

A step is a sum over batches and processes divided by what they counted together, so that it is the same however its
rows are shared out. Steps are a function of their number: a run that goes on from a save computes what it would have
computed without the stop.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from git_caption.errors import DataError, JobFailed, Stopped
from git_caption.images.transform import normalise
from git_caption.model.vision import Features
from git_caption.params.model import TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.pipeline.chunks import FailedRow
from git_caption.pipeline.workers import STOPPING, signals_held
from git_caption.samples.collate import Batch
from git_caption.samples.steps import Step, TrainingSteps
from git_caption.training.journal import Journal
from git_caption.training.objectives import Objective
from git_caption.training.optimizer import build_optimizer
from git_caption.training.state import Saves, load_trained, trained_tensors
from git_caption.tsv.writer import encode, write_atomically

AGAIN_SECONDS = 1.0  # launchers pass on a signal that the terminal has sent already; people take longer
KEYS_SHOWN = 8


@dataclass(frozen=True)
class Summary:
    """What a run did. `skipped` counts pictures that could not be read, `cut` captions that were too long."""

    steps: int
    seconds: float
    images_per_second: float
    trained_parameters: int
    parameters: int
    peak_memory: int
    skipped: int
    cut: int

    def __str__(self) -> str:
        said = (
            f"{self.steps} steps in {self.seconds:.0f} s, {self.images_per_second:.1f} images/s; "
            f"{self.trained_parameters:,} of {self.parameters:,} parameters trained; "
            f"peak memory {self.peak_memory / 2**30:.2f} GiB"
        )
        said += f"; {self.cut} captions or answers cut" if self.cut else ""
        return said + (f"; {self.skipped} pictures skipped, listed in skipped.tsv" if self.skipped else "")


class TrainingRun:
    """Trains what requires gradients in `objective`; writes `journal.csv`, `skipped.tsv` and saves.

    Goes on from the newest save there is. Made on every process of a run; the first one writes and talks.
    """

    def __init__(
        self,
        objective: Objective,
        batches: TrainingSteps,
        params: TrainingParams,
        transform: TransformConfig,
        accelerator: Accelerator,
        saves: Saves,
        say: Callable[[str], None],
    ) -> None:
        """`say` is given a line of progress now and then."""
        self.objective = objective
        self.batches = batches
        self.params = params
        self.transform = transform
        self.accelerator = accelerator
        self.saves = saves
        self.say = say if accelerator.is_main_process else _say_nothing
        self.steps = max(1, round(params.optimisation.epochs * batches.per_epoch))
        # with channels last, convolutions on a CPU take half the time
        objective.to(memory_format=torch.channels_last)
        optimizer, self.schedule = build_optimizer(objective, params.optimisation, self.steps)
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer)
        self.model: Any = accelerator.prepare_model(objective, device_placement=False)
        self.skipped: dict[int, FailedRow] = {}
        self.cut = 0

    def go(self) -> Summary:
        """Take all steps.

        Raises:
            JobFailed: the loss or its gradient is not a finite number; names the step and the keys. Or the disk
                refuses, or too many pictures cannot be read.
            DataError: a picture that cannot be read, where `on_error` says so; names file, row and key.
            UsageError: the saves are of a run with other settings.
            Stopped: by a signal, with the state saved.
        """
        saved = self.saves.read()
        first = 0 if saved is None else int(saved["step"])
        torch.manual_seed(self.params.optimisation.seed + self.accelerator.process_index)
        with signals_held():
            loader = iter(self._loader(first))
        if saved is not None:
            self._restore(saved)
        out = Path(self.params.saving.output_dir)
        journal = Journal(out / "journal.csv", first, saved["journal"] if saved else None) if self._main else None
        self.model.train()
        began = time.perf_counter()
        shown = self._main and sys.stderr.isatty()
        bar = tqdm(total=self.steps, initial=first, unit="step", disable=not shown)
        try:
            with _noted_signals() as noted, bar:
                for number in range(first + 1, self.steps + 1):
                    step = _next(loader)
                    self._skip(step)
                    self._count_cut(step)
                    loss, lr, stop = self._step(number, step, bool(noted))
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.1e}", refresh=False)
                    if journal is not None:
                        journal.add(loss, self.batches.share.rows)
                        if number % self.params.saving.log_every == 0 or number == self.steps:
                            self._log(journal, number, lr, quiet=shown)
                    if stop or number == self.steps or number % self.params.saving.save_every == 0:
                        self._save(number, journal)
                    if stop and number < self.steps:
                        raise Stopped(self._stopped(number, noted))
        finally:
            del loader  # ends its processes before this one ends
            if journal is not None:
                journal.close()
        self.model.eval()
        self._list_skipped(out)
        return self._summary(first, time.perf_counter() - began)

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _loader(self, first: int) -> DataLoader[Step | Exception]:
        workers = self.params.computing.num_workers
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(first, self.steps),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_main_process,
            generator=torch.Generator(),  # of its own: it must not draw on the one that dropout draws from
        )

    def _step(self, number: int, step: Step, stopped: bool) -> tuple[float, float, bool]:
        """Take one step; gives its loss, its learning rate and whether any process was told to stop."""
        accelerator = self.accelerator
        counted = [sum(self.objective.count(batch) for batch in step.batches), int(stopped)]
        total, stops = self._summed(torch.tensor(counted, dtype=torch.float64)).tolist()
        losses, wrong = [], []
        for place, batch in enumerate(step.batches):
            # gradients of the processes are averaged, after the last batch
            syncing = nullcontext() if place + 1 == len(step.batches) else accelerator.no_sync(self.model)
            with syncing:
                loss = self.model(self._seen(batch), batch) / total
                accelerator.backward(loss * accelerator.num_processes)
            losses.append(loss.detach().double())
            if not math.isfinite(float(losses[-1])):
                wrong += batch.keys
        value = float(self._summed(torch.stack(losses).sum()))
        lr = float(self.schedule.get_last_lr()[0])
        norm = accelerator.clip_grad_norm_(self.trained, self.params.optimisation.max_grad_norm)
        scaled = accelerator.scaler is not None  # then steps with such gradients are left out, and the scale falls
        if not math.isfinite(value) or (norm is not None and not math.isfinite(float(norm)) and not scaled):
            raise JobFailed(self._not_finite(number, value, lr, wrong))
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.optimizer.zero_grad()
        return value, lr, stops > 0

    def _seen(self, batch: Batch) -> Tensor | Features:
        """What the objective takes: normalised pixels, or features."""
        if not batch.keys:
            first = next(iter(self.skipped.values()))
            raise DataError(f"no picture of a batch can be read; the first that could not be: {first.cause}")
        device = self.accelerator.device
        if not isinstance(batch.seen, Tensor):
            values, mask = batch.seen
            return Features(values.to(device), mask.to(device))
        pixels = normalise(batch.seen.to(device), self.transform.mean, self.transform.std)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over the processes of a float64 scalar or vector."""
        if self.accelerator.num_processes == 1:
            return value
        found: Tensor = self.accelerator.reduce(value.to(self.accelerator.device), "sum")
        return found

    def _not_finite(self, number: int, value: float, lr: float, keys: list[str]) -> str:
        what = f"the loss is {value}" if not math.isfinite(value) else "the gradient of the loss is not finite"
        among = f" of the pictures {', '.join(map(repr, keys[:KEYS_SHOWN]))}" if keys else ""
        more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
        return f"{what} at step {number}{among}{more} (learning rate {lr:.2e}): lower --lr, or look at these pictures"

    def _stopped(self, number: int, noted: list[str]) -> str:
        by = noted[0] if noted else "a signal to another process"
        return (
            f"stopped by {by} after step {number} of {self.steps}, saved in {self.saves.folder}: run the same command "
            "again to go on"
        )

    def _log(self, journal: Journal, number: int, lr: float, *, quiet: bool) -> None:
        epoch = number / self.batches.per_epoch
        mean = journal.write(number, epoch, lr)
        if not quiet:
            self.say(f"step {number}/{self.steps}  epoch {epoch:.2f}  loss {mean:.4f}  lr {lr:.1e}")

    def _skip(self, step: Step) -> None:
        for row, failure in step.failed.items():
            if self.params.dataset.on_error == "raise":
                raise DataError(f"{failure.reason} (key {failure.key!r})")
            self.skipped.setdefault(row, FailedRow(row, failure.key, failure.reason))
        allowed = self.params.dataset.max_errors
        if allowed is not None and len(self.skipped) > allowed:
            first = next(iter(self.skipped.values()))
            raise JobFailed(
                f"{len(self.skipped)} pictures could not be read, 'max_errors' allows {allowed}; the "
                f"first: {first.cause}"
            )

    def _count_cut(self, step: Step) -> None:
        found = sum(batch.cut for batch in step.batches)
        if found and not self.cut and self._main:
            tqdm.write("captions or answers are too long and are cut; the summary counts them", file=sys.stderr)
        self.cut += found

    def _all_cut(self) -> int:
        """Of all processes."""
        return int(self._summed(torch.tensor(self.cut, dtype=torch.float64)))

    def _all_skipped(self) -> list[tuple[int, str, str]]:
        """Of all processes, in the order of the rows."""
        own = [(row.row, row.key, row.cause) for row in self.skipped.values()]
        return sorted(set(gather_object(own) if self.accelerator.num_processes > 1 else own))

    def _list_skipped(self, out: Path) -> None:
        skipped = self._all_skipped()
        if self._main and skipped:
            lines = (encode(FailedRow(*row).columns(), "skipped.tsv") for row in skipped)
            write_atomically(out / "skipped.tsv", b"".join(lines))

    def _save(self, number: int, journal: Journal | None) -> None:
        rng = [
            {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}
        ]
        several = self.accelerator.num_processes > 1
        content = {
            "step": number,
            "trained": trained_tensors(self.objective),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "rng": gather_object(rng) if several else rng,
            "skipped": self._all_skipped(),
            "cut": self._all_cut(),
        }
        if journal is not None:
            self.saves.write(number, {**content, "journal": journal.state()})
        self.accelerator.wait_for_everyone()

    def _restore(self, saved: dict[str, Any]) -> None:
        load_trained(self.objective, saved["trained"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        rng = saved["rng"][self.accelerator.process_index]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
        self.skipped = {row: FailedRow(row, key, cause) for row, key, cause in saved["skipped"]}
        self.cut = saved["cut"] if self._main else 0
        self.say(f"going on after step {saved['step']} of {self.steps}, from {self.saves.folder}")

    def _summary(self, first: int, seconds: float) -> Summary:
        on_gpu = self.accelerator.device.type == "cuda"
        kibibytes = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
        return Summary(
            steps=self.steps,
            seconds=seconds,
            images_per_second=(self.steps - first) * self.batches.share.rows / max(seconds, 1e-9),
            trained_parameters=sum(parameter.numel() for parameter in self.trained),
            parameters=sum(parameter.numel() for parameter in self.objective.parameters()),
            peak_memory=torch.cuda.max_memory_allocated() if on_gpu else peak,
            skipped=len(self._all_skipped()),
            cut=self._all_cut(),
        )


def _next(loader: Iterator[Step | Exception]) -> Step:
    try:
        found = next(loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise JobFailed(
            "a process that reads pictures died (out of memory, or an image library crashed): run the same command "
            "again to go on, with fewer --num_workers if memory is short"
        ) from error
    if isinstance(found, Exception):
        raise found
    return found


@contextmanager
def _noted_signals() -> Iterator[list[str]]:
    """Inside, stopping signals are noted in the list; Ctrl-C once more, a second later or more, raises at once."""
    noted: list[str] = []
    asked: float | None = None
    if threading.current_thread() is not threading.main_thread():  # handlers can be set there only
        yield noted
        return

    def note(number: int, _: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if number == signal.SIGINT and asked is not None and now - asked > AGAIN_SECONDS:
            raise KeyboardInterrupt
        asked = now if asked is None else asked
        noted.append(signal.Signals(number).name)

    earlier = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield noted
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _leave_signals_to_the_main_process(_: int) -> None:
    """Run in each worker process: what stops a run may be sent to all its processes, and one of them answers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _say_nothing(_: str) -> None:
    """On all processes but the first."""
