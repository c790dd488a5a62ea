"""A checkpoint directory: config.json, model.safetensors, tokenizer/, adapter/, replaced together and loaded exactly.

What was trained is in model.safetensors under `image_encoder.`, `mapper.`, `cross_attention.`, `language_model.` and
`temporal.`, LoRA on the language model in adapter/, a base captioner in base/, a checkpoint itself; a frozen part is a
source (hub id or path, revision, sha256) in config.json instead. Other files of the folder are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption.captioner.adapter_files import write_adapter
from git_caption.captioner.repository_files import weight_files
from git_caption.errors import WeightsError
from git_caption.params.json_file import read_object
from git_caption.params.model import CaptionerConfig, ImageEncoderConfig, WeightsSource
from git_caption.params.pretrained import TunedConfig
from git_caption.params.schema import read, to_dict

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from git_caption.model.git import GitNetwork
    from git_caption.model.vision import ImageEncoder

CONFIG, WEIGHTS, TOKENIZER, ADAPTER, BASE = "config.json", "model.safetensors", "tokenizer", "adapter", "base"
WRITING, WRITTEN = ".saving", ".saved"
VERSIONED = {"torch": "torch", "transformers": "transformers", "open_clip": "open_clip_torch"}
BLOCK = 1 << 20


def save(
    config: CaptionerConfig,
    network: GitNetwork,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    save_base: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint, or replace the one in `folder`; killed at any moment, the old or the new one is there.

    Args:
        config: what the network was built from; parts whose `weights` is None are stored, the others referred to.
            Architectures of stored parts and the library versions are filled in; a language model in 8 or 4 bits is
            stored in these, to be loaded again as it is.
        network: the trained network, with an adapter on its language model where `config.adapter` tells of one.
        tokenizer: the language model's.
        folder: made where it is not there.
        save_base: writes the base captioner as a checkpoint, where `config.base` tells of one without a source.
    """
    config = _completed(config, network)
    with replaced(folder) as new:
        write_config(config, new)
        tokenizer.save_pretrained(new / TOKENIZER)
        write_weights(stored_tensors(config, network), new)
        if config.adapter is not None:
            write_adapter(network.language_model, config.language_model.weights, new / ADAPTER)
        if config.base is not None and config.base.source is None:
            assert save_base is not None, "a base captioner without a source is stored"
            save_base(new / BASE)


def write_config(config: CaptionerConfig | TunedConfig, new: Path) -> None:
    """Write config.json into a new checkpoint."""
    text = json.dumps(to_dict(config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (new / CONFIG).write_text(text, encoding="utf-8")


def write_weights(tensors: Iterable[tuple[list[str], Tensor]], new: Path) -> None:
    """Write model.safetensors into a new checkpoint: of tied tensors under the first of their names."""
    from safetensors.torch import save_file

    stored = {names[0]: tensor.detach().cpu().contiguous() for names, tensor in tensors}
    save_file(stored, new / WEIGHTS, metadata={"format": "pt"})


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


def load_config(folder: Path) -> CaptionerConfig:
    """Read config.json strictly.

    Raises:
        WeightsError: it is not there, is not JSON, or has keys or values this version does not know; all listed.
    """
    content = read_json(folder)
    config, faults = read(CaptionerConfig, content, str(folder / CONFIG))
    if config is None:
        raise WeightsError("; ".join(faults))
    return config


def tokenizer_folder(folder: Path) -> Path:
    """The folder of the checkpoint's tokenizer."""
    return _current(folder, TOKENIZER)


def adapter_folder(folder: Path) -> Path:
    """The folder of the checkpoint's adapter, where its config tells of one."""
    return _current(folder, ADAPTER)


def base_folder(folder: Path) -> Path:
    """The folder of the checkpoint's base captioner, where its config tells of one without a source."""
    return _current(folder, BASE)


def read_weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of model.safetensors whose names start with one of `prefixes`.

    Raises:
        WeightsError: it is not there or not readable.
    """
    from git_caption.model.weights import read_tensors

    path = _current(folder, WEIGHTS)
    if not path.is_file():
        raise WeightsError(f"{folder}: no {WEIGHTS} beside {CONFIG}; the checkpoint is incomplete")
    return read_tensors(path, prefixes)


def fill(stored: Iterable[tuple[list[str], Tensor]], tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the `stored` ones of a network; any one of tied names will do, several must be equal.

    Raises:
        WeightsError: missing, unexpected or misshapen tensors, or tied ones that differ, listed together.
    """
    import torch

    from git_caption.model.weights import described

    kinds: dict[str, list[str]] = {"missing": [], "unexpected": [], "misshapen": [], "tied but different": []}
    known: set[str] = set()
    copies: list[tuple[Tensor, Tensor]] = []
    for names, own in stored:
        known.update(names)
        given = [name for name in names if name in tensors]
        if not given:
            kinds["missing"].append(names[0])
        for name in given:
            if tensors[name].shape != own.shape:
                kinds["misshapen"].append(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
            elif name == given[0]:
                copies.append((own, tensors[name]))
            elif not torch.equal(tensors[name], tensors[given[0]]):
                kinds["tied but different"].append(f"{given[0]} and {name}")
    kinds["unexpected"] = sorted(set(tensors) - known)
    if found := described(kinds):
        raise WeightsError(f"{source} does not fit the captioner: {found}")
    with torch.no_grad():
        for own, given_tensor in copies:
            own.copy_(given_tensor)


def stored_tensors(config: CaptionerConfig, network: GitNetwork) -> list[tuple[list[str], Tensor]]:
    """What model.safetensors holds: (names of tied tensors, sorted; the tensor), in order of the first names."""
    from git_caption.model.adapters import without_adapter

    modules: dict[str, nn.Module] = dict(network.between)
    if network.temporal is not None:
        modules["temporal"] = network.temporal
    modules |= {
        name: encoder
        for name, encoder, described in _encoders(config, network)
        if described.weights is None and not config.mixes_stored
    }
    if config.language_model.weights is None:
        modules["language_model"] = network.language_model
    return tied(
        {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            for name, tensor in without_adapter(module.state_dict()).items()
        }
    )


def tied(tensors: Mapping[str, Tensor]) -> list[tuple[list[str], Tensor]]:
    """Each tensor with all its names, sorted; in order of the first names."""
    groups: dict[Any, tuple[list[str], Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
        groups.setdefault(place, ([], tensor))[0].append(name)
    return sorted(groups.values(), key=lambda group: group[0])


def check_source(source: WeightsSource, weights: Path) -> None:
    """Compare a frozen part's weights (a file, or a language model's folder) with the sha256 that was noted.

    Raises:
        WeightsError: they are others than those the captioner was trained with.
    """
    if source.sha256 is None:
        return
    seen = weights_sha256(weights)
    if seen != source.sha256:
        raise WeightsError(
            f"{source.id}: the weights at {weights} have sha256 {seen}, expected "
            f"{source.sha256} (revision {source.revision or 'not noted'}); fetch those, or give their path"
        )


def weights_sha256(path: Path) -> str:
    """The sha256 of a weights file, or of a folder of weights wherever it lies.

    A language model's folder of one weights file has that file's; of several shards, that of their names and sums. A
    checkpoint's folder has that of its config, weights, tokenizer and adapter, for each can change what it says.
    """
    files = _checkpoint_files(path) if is_checkpoint(path) else {file.name: file for file in weight_files(path)}
    if len(files) == 1:
        return _sha256_of_file(*files.values())
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name} {_sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder's config.json is a captioner's and not, say, a language model's.

    Raises:
        WeightsError: the config.json is no JSON object.
    """
    return _current(folder, CONFIG).is_file() and ("image_encoder" in read_json(folder) or is_tuned(folder))


def is_tuned(folder: Path) -> bool:
    """Whether the folder's config.json is that of a pretrained captioner that was trained further. Raises the same."""
    if not _current(folder, CONFIG).is_file():
        return False
    content = read_json(folder)
    return "captioner" in content and "image_encoder" not in content


def _checkpoint_files(folder: Path) -> dict[str, Path]:
    files = {name: _current(folder, name) for name in (CONFIG, WEIGHTS)}
    for name in _folders(files[CONFIG]):
        held = _current(folder, name)
        inner = [path for path in held.rglob("*") if path.is_file()]
        files |= {f"{name}/{path.relative_to(held).as_posix()}": path for path in inner}
    return {name: path for name, path in files.items() if path.is_file()}


def read_json(folder: Path) -> dict[str, Any]:
    """The content of the folder's config.json. Raises WeightsError: it is not there, or no JSON object."""
    return read_object(_current(folder, CONFIG))


def _folders(config: Path) -> list[str]:
    """The folders beside the files, as a config.json tells."""
    told = read_object(config) if config.is_file() else {}
    base = told.get("base")
    stored = isinstance(base, dict) and base.get("source") is None
    return [TOKENIZER, *([ADAPTER] if told.get("adapter") is not None else []), *([BASE] if stored else [])]


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _completed(config: CaptionerConfig, network: GitNetwork) -> CaptionerConfig:
    from git_caption.model.quantization import quantization_of

    language_model = config.language_model
    if language_model.weights is None:
        described = network.language_model.config.to_diff_dict()
        language_model = replace(language_model, architecture=language_model.architecture or described)
        if (bits := quantization_of(described)) != "none":
            stored = {**(language_model.architecture or {}), "quantization_config": described["quantization_config"]}
            language_model = replace(language_model, architecture=stored, quantization=bits)
    image_encoders = [
        replace(described, architecture=encoder.architecture)
        if described.weights is None and described.architecture is None
        else described
        for _, encoder, described in _encoders(config, network)
    ]
    return replace(config.with_encoders(image_encoders), language_model=language_model, versions=versions())


def _encoders(config: CaptionerConfig, network: GitNetwork) -> Iterator[tuple[str, ImageEncoder, ImageEncoderConfig]]:
    """The image encoders: name among the modules, the tower (of stored prefixes what stands for it), description."""
    towers = getattr(network.image_encoder, "encoders", None)
    for number, encoder in enumerate(config.encoders):
        if towers is None:
            yield "image_encoder", network.image_encoder, encoder.image_encoder
        else:
            yield f"image_encoder.encoders.{number}", towers[number], encoder.image_encoder


def versions() -> dict[str, str]:
    """Of the libraries that write a checkpoint."""
    return {name: version(package) for name, package in VERSIONED.items()}


def _finish_saving(folder: Path) -> None:
    """Move what a finished `.saved` holds to its place; the config last, for a folder without one is no checkpoint."""
    done = folder / WRITTEN
    if not done.is_dir():
        return
    for name in (TOKENIZER, ADAPTER, BASE):
        if (done / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            (done / name).rename(folder / name)
    kept = _folders(_current(folder, CONFIG))
    for name in _folders(folder / CONFIG):  # of the checkpoint that is replaced
        if name not in kept:
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in (WEIGHTS, CONFIG):
        if (done / name).is_file():
            (done / name).replace(folder / name)
    done.rmdir()
    _to_disk(folder)


def _current(folder: Path, name: str) -> Path:
    """The file as the last completed save left it, which a kill may have stopped from being moved to its place."""
    waiting = folder / WRITTEN / name
    return waiting if waiting.exists() else folder / name


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
