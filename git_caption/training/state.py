"""The state of a run: saved now and then, so that a run stopped at any moment goes on from the last save."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from git_caption.errors import JobFailed, UsageError, WeightsError, reason
from git_caption.params.differences import differences
from git_caption.training.sharding import gathered, scattered
from git_caption.tsv.index import TEMPORARY, temporary_path
from git_caption.tsv.writer import sync_folder

FOLDER = "last"
SAVE = re.compile(r"(\d{8,})\.pt")
BEST = re.compile(r"best-(\d{8,})\.pt")


class Saves:
    """The saves of a run: `OUT/last/00000500.pt` after step 500, the newest `keep` of them.

    Beside them stand the weights that validated best up to each of them, as `best-00000400.pt`. A file has its name
    only once it is complete and on the disk.
    """

    def __init__(self, output_dir: Path, settings: Mapping[str, Any], keep: int, *, mapped: bool = False) -> None:
        """Find the saves in a folder.

        Args:
            output_dir: the run's.
            settings: all that decides what the run computes, as JSON can hold it.
            keep: how many.
            mapped: saves are read as far as they are looked at, for processes that each take their part.
        """
        self.folder = output_dir / FOLDER
        self.settings = dict(settings)
        self.keep = keep
        self.mapped = mapped

    def steps(self) -> list[int]:
        """The steps there are saves of, in order."""
        return self._steps(SAVE)

    def read(self) -> dict[str, Any] | None:
        """The newest save; None where there is none.

        Raises:
            UsageError: it is of a run with other settings.
            WeightsError: it cannot be read.
        """
        if not (steps := self.steps()):
            return None
        content = self._read(self._path(steps[-1]), "remove it to go on from the save before it")
        earlier = content.pop("settings")
        if found := differences(earlier, self.settings):
            raise UsageError(
                f"{self.folder} holds the saves of an unfinished run with other settings ({found}); run it again as it "
                "was to finish it, or give --resume none to drop them and start anew"
            )
        for later in self._steps(BEST):
            if later > steps[-1]:  # of steps that will be taken again
                self._best_path(later).unlink(missing_ok=True)  # each process of a run reads
        return content

    def write(self, step: int, content: Mapping[str, Any]) -> None:
        """Put a save on the disk, for good, and drop the oldest ones. Raises JobFailed where the disk refuses."""
        self._write(self._path(step), content)
        for earlier in self.steps()[: -self.keep]:
            self._path(earlier).unlink()
        oldest = self.steps()[0]
        best = self._steps(BEST)
        for number, later in pairwise(best):
            if later <= oldest:
                self._best_path(number).unlink()

    def read_best(self, step: int) -> dict[str, Tensor]:
        """The weights that `write_best` stored. Raises WeightsError if they cannot be read."""
        trained: dict[str, Tensor] = self._read(self._best_path(step), "give --resume none to start anew")["trained"]
        return trained

    def write_best(self, step: int, trained: Mapping[str, Tensor]) -> None:
        """Store the best weights so far, for the next save to refer to. Raises JobFailed where the disk refuses."""
        self._write(self._best_path(step), {"step": step, "trained": dict(trained)})

    def remove(self) -> None:
        """Drop all saves."""
        if self.folder.is_dir():
            self._remove_unfinished()
            for step in self.steps():
                self._path(step).unlink()
            for step in self._steps(BEST):
                self._best_path(step).unlink()
            with suppress(OSError):  # what is not ours stays
                self.folder.rmdir()

    def _steps(self, names: re.Pattern[str]) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(found[1]) for path in self.folder.iterdir() if (found := names.fullmatch(path.name)))

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:08d}.pt"

    def _best_path(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.pt"

    def _read(self, path: Path, cure: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=self.mapped)
            content["settings"]
        except Exception as error:  # torch's unpickler raises nearly any kind on damaged bytes
            raise WeightsError(f"{path} cannot be read: {reason(error)}; {cure}") from error
        return content

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()  # they may be what fills the disk
            temporary = temporary_path(path)
            try:
                with open(temporary, "xb") as file:
                    torch.save({**content, "settings": self.settings}, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch's writer has a RuntimeError for a full disk
            kept = self.steps()
            left = f"the save of step {kept[-1]} is kept" if kept else "there is no earlier save"
            raise JobFailed(
                f"cannot save to {self.folder}: {getattr(error, 'strerror', None) or reason(error)}; {left}: run the "
                "same command again once that is put right"
            ) from error

    def _remove_unfinished(self) -> None:
        for path in self.folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink()


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training changes in a module: parameters with gradients, and the statistics of their BatchNorms.

    Of a module in shards whole tensors, on the first process; all processes have to ask for them.
    """
    return {name: gathered(tensor) for name, tensor in _trained(module).items()}


def load_trained(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `trained_tensors` gave."""
    own = _trained(module)
    assert own.keys() == tensors.keys(), "the settings of a save decide which parts are trained"
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(scattered(tensors[name], tensor))


def _trained(module: nn.Module) -> dict[str, Tensor]:
    tensors = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and any(parameter.requires_grad for parameter in part.parameters()):
            tensors |= {f"{name}.{buffer}": tensor for buffer, tensor in part.named_buffers()}
    return tensors
