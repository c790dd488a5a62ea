"""Device maps: a language model spread over GPUs, CPU memory and disk by accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.errors import UsageError

Device = int | str


@dataclass(frozen=True)
class DeviceMap:
    """Which module of a language model goes where.

    Attributes:
        modules: `auto`, `balanced`, `balanced_low_0` or `sequential`; or names of modules with the device of each: a GPU's
            number, a device's name, or `disk`.
        max_memory: what accelerate may use of a device: bytes, or a text as `10GiB`; of the others, all there is.
    """

    modules: str | Mapping[str, Device]
    max_memory: Mapping[str, Device] | None = None

    def options(self, folder: Path) -> dict[str, Any]:
        """What `from_pretrained` takes, checked against the model of a folder and the devices of this machine.

        Raises:
            UsageError: a device that is not there, a module that the model has not, or one that is given no device;
                all listed.
        """
        limits = {_numbered(name): limit for name, limit in (self.max_memory or {}).items()}
        faults = [f"'max_memory': {fault}" for fault in _absent(limits)]
        modules: Any = self.modules
        if not isinstance(self.modules, str):
            modules = {name: _numbered(device) for name, device in self.modules.items()}
            faults += [f"'device_map': {fault}" for fault in [*_absent(modules.values()), *_misfits(folder, modules)]]
        if faults:
            raise UsageError("; ".join(faults))
        return {"device_map": modules, "max_memory": limits or None}


def _numbered(device: Device) -> Device:
    """A GPU as accelerate names it, by its number; `0`, `'0'` and `'cuda:0'` are the same one."""
    text = str(device).removeprefix("cuda:")
    return int(text) if text.isdecimal() else device


def _absent(devices: Any) -> Iterator[str]:
    seen = torch.cuda.device_count()
    for device in dict.fromkeys(devices):
        if isinstance(device, int):
            if device >= seen:
                yield f"there is no GPU {device}, torch sees {seen}"
        elif device == "mps":
            if not torch.backends.mps.is_available():
                yield "there is no device 'mps'"
        elif device not in ("cpu", "disk"):
            yield f"there is no device {device!r}, expected the number of a GPU, cpu, mps or disk"


def _misfits(folder: Path, modules: Mapping[str, Device]) -> Iterator[str]:
    """Names that the model has not, and parameters that no name covers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))  # type: ignore[no-untyped-call]
    parameters = dict(model.named_parameters())
    known = {*dict(model.named_modules()), *parameters}
    for name in modules:
        if name not in known:
            yield f"the language model has no module {name!r}; its parts are {', '.join(_parts(model))}"
    bare = [name for name in parameters if not any(_within(name, module) for module in modules)]
    if bare:
        yield f"no device for {bare[0]}" + (f" and {len(bare) - 1} more parameters" if bare[1:] else "")


def _within(name: str, module: str) -> bool:
    return module in ("", name) or name.startswith(f"{module}.")


def _parts(model: Any) -> list[str]:
    """Names to begin from: the modules at the top, and those one below."""
    return [name for name, _ in model.named_modules() if name and name.count(".") < 2]
