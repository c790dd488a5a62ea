"""Tensors of a TorchScript archive, read without running the program stored beside them.

OpenAI published CLIP as such archives. `torch.jit.load` would load their code; here the archive is taken for what it
is on disk, a zip with `data.pkl` (a pickled tree of modules) and one file per storage under `data/`, and only the
tensors of the tree are kept.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_archive(path: Path) -> bool:
    """Whether the file is a zip that holds TorchScript code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The archive's parameters, buffers and tensor attributes by dotted name.

    Raises:
        pickle.UnpicklingError: the pickle asks for anything but modules, tensors and plain containers.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as stream:
            root = _Reader(stream, archive, pickled.removesuffix(".pkl")).load()  # type: ignore[arg-type]
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors)
    return tensors


class _Module:
    """Stands for any scripted module: remembers its attributes and has no behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def _collect(node: Any, prefix: str, into: dict[str, Tensor]) -> None:
    for name, value in getattr(node, "attributes", {}).items():
        if isinstance(value, Tensor):
            into[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", into)


def _rebuild_tensor(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(shape, stride, offset)


class _Reader(pickle.Unpickler):
    """Unpickles modules, tensors and containers; refuses every other global."""

    def __init__(self, stream: BinaryIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle":  # typed lists: `build_intlist(values)` and the like are the values
            return list
        raise pickle.UnpicklingError(f"the TorchScript archive asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, identity: Any) -> Tensor:
        kind, dtype, key, _device, count = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r} in the TorchScript archive")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}/{key}"))
            self.storages[key] = (
                torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]
