"""The folder of a checkpoint: what lies where in it, and how its files are replaced together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from git_caption.params.json_file import read_object

CONFIG, WEIGHTS, TOKENIZER, ADAPTER, BASE = "config.json", "model.safetensors", "tokenizer", "adapter", "base"
WRITING, WRITTEN = ".saving", ".saved"


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write a checkpoint into, config.json first, that then replaces the one in `folder`.

    Killed at any moment, the old or the new one is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _finish_saving(folder)  # of a run that was killed between the two renames below
    new = folder / WRITING
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    yield new
    for path in new.rglob("*.safetensors"):
        shutil.copymode(new / CONFIG, path)  # safetensors writes for the owner alone, whatever the umask
    for path in [*new.rglob("*"), new]:
        _to_disk(path)
    new.rename(folder / WRITTEN)  # from here on the new checkpoint counts
    _to_disk(folder)
    _finish_saving(folder)


def tokenizer_folder(folder: Path) -> Path:
    """The folder of the checkpoint's tokenizer."""
    return current(folder, TOKENIZER)


def adapter_folder(folder: Path) -> Path:
    """The folder of the checkpoint's adapter, where its config tells of one."""
    return current(folder, ADAPTER)


def base_folder(folder: Path) -> Path:
    """The folder of the checkpoint's base captioner, where its config tells of one without a source."""
    return current(folder, BASE)


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder's config.json is a captioner's and not, say, a language model's.

    Raises:
        WeightsError: the config.json is no JSON object.
    """
    return current(folder, CONFIG).is_file() and ("image_encoder" in read_json(folder) or is_tuned(folder))


def is_tuned(folder: Path) -> bool:
    """Whether the folder's config.json is that of a pretrained captioner that was trained further. Raises the same."""
    if not current(folder, CONFIG).is_file():
        return False
    content = read_json(folder)
    return "captioner" in content and "image_encoder" not in content


def read_json(folder: Path) -> dict[str, Any]:
    """The content of the folder's config.json. Raises WeightsError: it is not there, or no JSON object."""
    return read_object(current(folder, CONFIG))


def files(folder: Path) -> dict[str, Path]:
    """Its files, by their paths in the folder: config, weights, and those of the folders that the config tells of."""
    found = {name: current(folder, name) for name in (CONFIG, WEIGHTS)}
    for name in _folders(found[CONFIG]):
        held = current(folder, name)
        inner = [path for path in held.rglob("*") if path.is_file()]
        found |= {f"{name}/{path.relative_to(held).as_posix()}": path for path in inner}
    return {name: path for name, path in found.items() if path.is_file()}


def current(folder: Path, name: str) -> Path:
    """The file as the last completed save left it, which a kill may have stopped from being moved to its place."""
    waiting = folder / WRITTEN / name
    return waiting if waiting.exists() else folder / name


def _folders(config: Path) -> list[str]:
    """The folders beside the files, as a config.json tells."""
    told = read_object(config) if config.is_file() else {}
    base = told.get("base")
    stored = isinstance(base, dict) and base.get("source") is None
    return [TOKENIZER, *([ADAPTER] if told.get("adapter") is not None else []), *([BASE] if stored else [])]


def _finish_saving(folder: Path) -> None:
    """Move what a finished `.saved` holds to its place; the config last, for a folder without one is no checkpoint."""
    done = folder / WRITTEN
    if not done.is_dir():
        return
    for name in (TOKENIZER, ADAPTER, BASE):
        if (done / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            (done / name).rename(folder / name)
    kept = _folders(current(folder, CONFIG))
    for name in _folders(folder / CONFIG):  # of the checkpoint that is replaced
        if name not in kept:
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in (WEIGHTS, CONFIG):
        if (done / name).is_file():
            (done / name).replace(folder / name)
    done.rmdir()
    _to_disk(folder)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
