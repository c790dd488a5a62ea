"""The training loop: steps of an objective over batches, saved now and then, with a journal.

A step is a sum over batches and processes divided by what they counted together, so that it is the same however its
rows are shared out. Steps are a function of their number: a run that goes on from a save computes what it would have
computed without the stop.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from git_caption.errors import DataError, JobFailed, Stopped
from git_caption.model.quantization import count
from git_caption.model.vision import Features
from git_caption.params.model import TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.pipeline.workers import signals_held
from git_caption.samples.collate import Batch
from git_caption.samples.steps import Step, TrainingSteps
from git_caption.training.objectives import Objective
from git_caption.training.optimizer import build_optimizer
from git_caption.training.records import Records
from git_caption.training.seen import seen
from git_caption.training.sharding import gathered_state, is_sharded, scattered_state
from git_caption.training.signals import leave_signals_to_the_main_process, noted_signals
from git_caption.training.skipped import Skipped
from git_caption.training.state import Saves, load_trained, trained_tensors
from git_caption.training.summary import Summary, peak_memory
from git_caption.training.validation import Validation

KEYS_SHOWN = 8


class TrainingRun:
    """Trains what requires gradients in `objective`; writes its records, `skipped.tsv` and saves.

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
        validation: Validation | None = None,
    ) -> None:
        """`say` is given a line of progress now and then."""
        self.objective = objective
        self.batches = batches
        self.params = params
        self.transform = transform
        self.accelerator = accelerator
        self.saves = saves
        self.say = say
        self.steps = max(1, round(params.optimisation.epochs * batches.per_epoch))
        sharded = is_sharded(objective)
        if not sharded:  # shards have to be contiguous
            # with channels last, convolutions on a CPU take half the time
            objective.to(memory_format=torch.channels_last)
        optimizer, self.schedule = build_optimizer(objective, params.optimisation, self.steps)
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer)
        # the forward pass of what is in shards synchronises by itself
        self.model: Any = accelerator.prepare_model(objective, device_placement=False, evaluation_mode=sharded)
        self.skipped = Skipped(params.dataset, accelerator)
        self.cut = 0
        self.validation = validation
        self.validating = 0.0  # seconds
        self.noted: set[str] = set()  # by validations
        self.done = 0  # steps

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
        self.done = first = 0 if saved is None else int(saved["step"])
        torch.manual_seed(self.params.optimisation.seed + self.accelerator.process_index)
        with signals_held():
            loader = iter(self._loader(first))
        if saved is not None:
            self._restore(saved)
        held = saved["records"] if saved else None
        records = Records(self.params, first, held, self.objective.measures) if self._main else None
        self.model.train()
        began = time.perf_counter()
        try:
            stopped = self._steps(loader, records)
            if records is not None:
                records.finish()
        finally:
            del loader  # ends its processes before this one ends
            if self.validation is not None:
                self.validation.close()
            if records is not None:
                records.close()
        if stopped is not None:
            raise Stopped(stopped)
        self._take_the_best()
        self.model.eval()
        self.skipped.write(Path(self.params.saving.output_dir) / "skipped.tsv")
        return self._summary(self.done - first, time.perf_counter() - began - self.validating)

    def _steps(self, loader: Iterator[Step | Exception], records: Records | None) -> str | None:
        """Take the steps that are left; why it stopped before the end of the run, if it did."""
        shown = self._main and sys.stderr.isatty()
        bar = tqdm(total=self.steps, initial=self.done, unit="step", disable=not shown)
        with noted_signals() as noted, bar:
            self._validate(records)  # where a signal came first
            for number in range(self.done + 1, self.steps + 1):
                if self._over:
                    break
                step = _next(loader)
                self.skipped.note(step)
                self._count_cut(step)
                loss, lr, stop = self._step(number, step, bool(noted))
                measured = self._measured(step)
                self.done, last = number, number == self.steps
                self._show(bar, loss, lr)
                if records is not None:
                    records.add(loss, self.batches.share.rows, measured)
                    if number % self.params.saving.log_every == 0 or last:
                        self._log(records, number, lr, quiet=shown)
                if not stop or last:
                    self._validate(records)
                if stop or last or self._over or number % self.params.saving.save_every == 0:
                    self._save(number, records)
                if stop and not last:
                    return self._stopped(number, noted)
        return None

    @property
    def _over(self) -> bool:
        return self.validation is not None and self.validation.over

    def _show(self, bar: Any, loss: float, lr: float) -> None:
        """A step on the progress bar, which knows the time that is left."""
        bar.update()
        rate = bar.format_dict["rate"] or 0.0 if not bar.disable else 0.0
        bar.set_postfix_str(
            f"loss {loss:.4f}, lr {lr:.1e}, {rate * self.batches.share.rows:.1f} images/s", refresh=False
        )

    def _validate(self, records: Records | None) -> None:
        """Validate where it is due after the steps that are done; keep the weights if they are the best so far."""
        number, per_epoch = self.done, self.batches.per_epoch
        if self.validation is None or not self.validation.due(number, per_epoch, number == self.steps):
            return
        began = time.perf_counter()
        found, is_best = self.validation(number)
        seconds = time.perf_counter() - began
        self.validating += seconds
        best = trained_tensors(self.objective) if is_best else None
        if records is not None:
            if best is not None:
                self.saves.write_best(number, best)
            records.validated(number, number / per_epoch, found, seconds)
        self.say(f"validation after step {number}: {found}{'; the best so far' if is_best else ''}")
        for note in found.notes:
            if note not in self.noted:
                self.say(note)
        self.noted.update(found.notes)

    def _take_the_best(self) -> None:
        """Put back the weights that validated best."""
        if self.validation is not None and self.validation.best.step not in (0, self.done):
            load_trained(self.objective, self.saves.read_best(self.validation.best.step))

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
            worker_init_fn=leave_signals_to_the_main_process,
            generator=torch.Generator(),  # of its own: it must not draw on the one that dropout draws from
        )

    def _step(self, number: int, step: Step, stopped: bool) -> tuple[float, float, bool]:
        """Take one step; gives its loss, its learning rate and whether any process was told to stop."""
        accelerator = self.accelerator
        counted = [sum(self.objective.count(batch) for batch in step.batches), int(stopped)]
        total, stops = self._summed(torch.tensor(counted, dtype=torch.float64)).tolist()
        if not total and all(batch.keys for batch in step.batches):
            drawn = self.params.dataset
            raise DataError(
                f"step {number}: its pictures have no text to train on, of each {drawn.captions_per_image} captions "
                f"('captions_per_image') and {drawn.questions_per_image} questions ('questions_per_image') are drawn"
            )
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

    def _measured(self, step: Step) -> list[float]:
        """The means of the objective's measures over what a step counts."""
        if not self.objective.measures:
            return []
        counted = sum(self.objective.count(batch) for batch in step.batches)
        *sums, count = self._summed(torch.tensor([*self.objective.take_measures(), counted]).double()).tolist()
        return [total / count for total in sums]

    def _seen(self, batch: Batch) -> Tensor | Features:
        """What the objective takes: normalised pixels, or features."""
        if not batch.keys:
            raise DataError(f"no picture of a batch can be read; the first that could not be: {self.skipped.first}")
        return seen(batch, self.transform, self.accelerator.device)

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

    def _log(self, records: Records, number: int, lr: float, *, quiet: bool) -> None:
        epoch = number / self.batches.per_epoch
        means = records.log(number, epoch, lr)
        if not quiet:
            shown = "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            self.say(f"step {number}/{self.steps}  epoch {epoch:.2f}  {shown}  lr {lr:.1e}")

    def _count_cut(self, step: Step) -> None:
        found = sum(batch.cut for batch in step.batches)
        if found and not self.cut and self._main:
            tqdm.write("captions or answers are too long and are cut; the summary counts them", file=sys.stderr)
        self.cut += found

    def _all_cut(self) -> int:
        """Of all processes."""
        return int(self._summed(torch.tensor(self.cut, dtype=torch.float64)))

    def _save(self, number: int, records: Records | None) -> None:
        rng = [
            {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}
        ]
        several = self.accelerator.num_processes > 1
        content = {
            "step": number,
            "trained": trained_tensors(self.objective),
            "optimizer": gathered_state(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "rng": gather_object(rng) if several else rng,
            "skipped": self.skipped.of_all_processes(),
            "cut": self._all_cut(),
            "validation": None if self.validation is None else self.validation.state(),
        }
        if records is not None:
            self.saves.write(number, {**content, "records": records.state()})
        self.accelerator.wait_for_everyone()

    def _restore(self, saved: dict[str, Any]) -> None:
        load_trained(self.objective, saved["trained"])
        self.optimizer.load_state_dict(scattered_state(saved["optimizer"], self.trained))
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        rng = saved["rng"][self.accelerator.process_index]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
        if self.validation is not None:
            self.validation.restore(saved["validation"])
        self.skipped.restore(saved["skipped"])
        self.cut = saved["cut"] if self._main else 0
        self.say(f"going on after step {saved['step']} of {self.steps}, from {self.saves.folder}")

    def _summary(self, taken: int, seconds: float) -> Summary:
        """Of a run that has taken so many steps now, in so many seconds."""
        best = None if self.validation is None or not self.validation.best.step else self.validation.best
        return Summary(
            steps=self.done,
            seconds=seconds,
            images_per_second=taken * self.batches.share.rows / max(seconds, 1e-9),
            validating=self.validating,
            trained_parameters=count(self.trained),
            parameters=count(self.objective.parameters()),
            peak_memory=peak_memory(self.accelerator.device),
            skipped=len(self.skipped.of_all_processes()),
            cut=self._all_cut(),
            weights="the last step" if best is None else f"the best validation, at step {best.step}: {best.said}",
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
