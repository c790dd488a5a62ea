"""Device maps: a language model spread over GPUs, CPU memory and disk by accelerate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.modeling import convert_file_size_to_int
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from git_caption.errors import UsageError
from git_caption.params.device_split import DeviceSplit

Device = int | str
AFTER = re.compile(
    r"(^|[._])(final_layer_?norm|norm|ln_f|project_out)$"
)  # in the names of what stands after the blocks


@dataclass(frozen=True)
class DeviceMap:
    """Which module of a language model goes where.

    Attributes:
        modules: `auto`, `balanced`, `balanced_low_0` or `sequential`; names of modules with the device of each: the
            number of a GPU, the name of a device, or `disk`; or a split of the blocks.
        max_memory: what accelerate may use of a device: bytes, or a text as `10GiB`; of the others, all there is.
    """

    modules: str | Mapping[str, Device] | DeviceSplit
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
        given = self.modules
        if isinstance(given, DeviceSplit):
            model = on_meta(folder)
            given = "auto" if model is None else split_modules(model, given)  # loading it will say what is wrong
        modules: Any = given
        if not isinstance(given, str):
            modules = {name: _numbered(device) for name, device in given.items()}
            faults += [f"'device_map': {fault}" for fault in [*_absent(modules.values()), *_misfits(folder, modules)]]
        if faults:
            raise UsageError("; ".join(faults))
        return {"device_map": modules, "max_memory": limits or None}


def on_meta(folder: Path) -> PreTrainedModel | None:
    """The language model of a folder without weights; None where the folder holds none."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
        return model
    except Exception:  # of wrong settings transformers raises nearly anything
        return None


def blocks_of(model: nn.Module) -> list[str]:
    """The names of the model's blocks, in order; none where they are not known."""
    return [name for name, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]


def split_modules(model: PreTrainedModel, split: DeviceSplit) -> dict[str, Device]:
    """The device of each module of a model whose blocks are split.

    Embeddings and output layer are on the first device: the two may be one tensor. What else is beside the blocks,
    the norm after them and its like, is on the last one if its name says so.

    Raises:
        UsageError: the blocks of the model are not known.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UsageError(f"'device_split': the blocks of {type(model).__name__} are not known; give a 'device_map'")
    modules: dict[str, Device] = {name: split.device_of(number) for number, name in enumerate(blocks)}
    around = {".".join(name.split(".")[:depth]) for name in blocks for depth in range(name.count(".") + 1)}
    for name, part in model.named_modules():
        parent = name.rpartition(".")[0]
        if name not in around and parent in around and name not in modules:
            modules[name] = split.last if AFTER.search(name) else split.first
        elif name in around:
            for own, _ in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                modules[f"{name}.{own}" if name else own] = split.first
    return modules


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
    model = on_meta(folder)
    if model is None:
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
