"""Device maps: a language model spread over GPUs, CPU memory and disk by accelerate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.modeling import convert_file_size_to_int
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.errors import UsageError

Device = int | str


@dataclass(frozen=True)
class DeviceMap:
    """Which module of a language model goes where.

    Attributes:
        modules: `auto`, `balanced`, `balanced_low_0` or `sequential`; or names of modules with the device of each: the
            number of a GPU, the name of a device, or `disk`.
        max_memory: what accelerate may use of a device: bytes, or a text as `10GiB`; of the others, all there is.
    """

    modules: str | Mapping[str, Device]
    max_memory: Mapping[str, Device] | None = None

    def options(self, folder: Path) -> dict[str, Any]:
        """What `from_pretrained` takes, checked against the model of a folder and the devices of this machine.

        Raises:
            UsageError: a device that is not there, a module that the model has not, a tensor that is given no device
                or two, a bound that is no size; all listed.
        """
        limits = {_numbered(name): _bytes(limit) for name, limit in (self.max_memory or {}).items()}
        faults = [f"'max_memory': {fault}" for fault in _absent(limits)]
        if any(limit is None for limit in limits.values()):
            faults.append(
                f"'max_memory': expected bytes or texts as 10GiB or 500MB, found {dict(self.max_memory or {})}"
            )
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


def _bytes(size: int | str) -> int | None:
    """A size in bytes; None where the text is none."""
    try:
        return int(convert_file_size_to_int(size))
    except ValueError:
        return None


def _absent(devices: Iterable[Device]) -> Iterator[str]:
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
    """Names that the model has not, parameters given two devices or none, and tied ones that would be torn apart."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception:  # of wrong settings transformers raises nearly anything
        return  # not a language model, which loading it will say
    parameters = dict(model.named_parameters(remove_duplicate=False))
    known = {*dict(model.named_modules()), *parameters}
    unknown = [name for name in modules if name not in known]
    if unknown:
        yield f"the language model has no {', '.join(unknown)}; its modules are {', '.join(_modules(model))}"
    for name in modules:
        if outer := [other for other in modules if other != name and _within(name, other)]:
            yield f"{name!r} is in {outer[0]!r}: give each module one device, by its own name or by one around it"
    places = {name: [device for module, device in modules.items() if _within(name, module)] for name in parameters}
    if bare := [name for name, _ in model.named_parameters() if not places[name]]:
        yield f"no device for {bare[0]}" + (f" and {len(bare) - 1} more tensors" if bare[1:] else "")
    first: dict[int, str] = {}
    for name, parameter in parameters.items():
        other = first.setdefault(id(parameter), name)
        if places[name] != places[other]:
            yield f"{other} and {name} are one tensor; give both a device, the same"


def _within(name: str, module: str) -> bool:
    return module in ("", name) or name.startswith(f"{module}.")


def _modules(model: Any) -> list[str]:
    """The names to begin from: those at the top and one below."""
    return [name for name, _ in model.named_modules() if name and name.count(".") < 2]
