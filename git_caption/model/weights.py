"""Reading weight files without running code from them, and loading them exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from git_caption.errors import WeightsError, reason
from git_caption.model import torchscript

SHOWN = 5  # names listed per kind of fault: enough to see the pattern, short enough for one line


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Read the tensors of a weight file whose names start with one of `prefixes`.

    Takes `.safetensors`, a `torch.save`d state dict (also `{"state_dict": ...}` with `module.` names, as training
    scripts write it) and a TorchScript archive. Nothing stored in the file is executed.

    Raises:
        WeightsError: the file cannot be read, or is not a state dict.
    """
    if path.suffix != ".safetensors":
        return {name: value for name, value in _unpickled(path).items() if name.startswith(prefixes)}
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names if name.startswith(prefixes)}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a file written by torch.save or torch.jit.save."""
    try:
        if torchscript.is_archive(path):
            return torchscript.read_state_dict(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes an unpickler raises nearly anything
        raise WeightsError(f"{path}: not a readable weight file: {reason(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a state dict (names to tensors)")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def faults(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps `given` from filling `expected`, in one line: missing, unexpected and misshapen names; else empty."""
    misshapen = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "misshapen": misshapen,
    }
    return described(kinds)


def described(kinds: Mapping[str, Sequence[str]]) -> str:
    """Names by kind of fault in one line: how many of each kind, with examples; empty where there are none."""
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str, assign: bool = False) -> None:
    """Copy `tensors` into `module`, which must have exactly these names and shapes.

    With `assign` the tensors become the module's own, in their dtype: for a module built on the meta device.

    Raises:
        WeightsError: missing, unexpected or misshapen tensors, all listed together; nothing has been copied then.
    """
    found = faults(module.state_dict(), tensors)
    if found:
        raise WeightsError(f"{source} does not fit the model: {found}")
    module.load_state_dict(dict(tensors), assign=assign)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
