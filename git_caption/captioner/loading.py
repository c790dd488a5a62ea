"""From a path or hub id to the parts of a captioner, each on its device and in its precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from git_caption.captioner import checkpoint, checkpoint_folder, hub, stored_tensors, weight_sources
from git_caption.captioner.adapter_files import put_adapter
from git_caption.captioner.fingerprint import fingerprint
from git_caption.captioner.legacy import old_file
from git_caption.errors import UsageError, WeightsError
from git_caption.model.build import build_network
from git_caption.model.device_map import DeviceMap
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model, converted, from_stored
from git_caption.model.pretrained import loader
from git_caption.model.quantization import Quantization, quantization_of
from git_caption.model.vision import ImageEncoder, build_image_encoder
from git_caption.params.infer import ModelParams
from git_caption.params.model import CaptionerConfig, EncoderConfig
from git_caption.params.paths import is_hub_id
from git_caption.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_MODEL = "language_model."  # before the names of its tensors in a checkpoint
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Parts = tuple[CaptionerConfig, GitNetwork, "PreTrainedTokenizerBase", str]


def load(
    model: ModelParams,
    quantization: Quantization | None,
    device: torch.device,
    dtype: torch.dtype,
    device_map: DeviceMap | None = None,
) -> Parts:
    """The config, network, tokenizer and fingerprint of a captioner; parameters and errors as `Captioner.load`."""
    folder = Path(model.path).expanduser()
    if folder.is_file():
        old = old_file.read(folder, model, quantization)
        source = f"{folder} with language_model {old.config.language_model.name!r}"
        network, sources = _network(old.config, old.tensors, source, device, dtype, device_map)
        config = _seen_as(old.config, network, model.test_crop_size, model.test_respect_ratio_max)
        tokenizer = load_tokenizer(old.language_model)
        print_of = fingerprint(config, [*sources, old.language_model], weight_sources.weights_sha256(folder))
        return config, network, tokenizer, print_of
    folder = captioner_folder(model.path)
    config = checkpoint.load_config(folder)
    _contradictions(config, folder, model)
    if quantization is not None:
        config = replace(config, language_model=replace(config.language_model, quantization=quantization))
    network, sources = _network(config, checkpoint.read_weights(folder), str(folder), device, dtype, device_map)
    held = quantization_of(network.language_model.config.to_diff_dict())
    if quantization == "none" and held != "none":
        raise UsageError(
            f"{folder}: the language model is stored in {held}, quantization 'none' cannot be had: leave it out"
        )
    config = replace(config, language_model=replace(config.language_model, quantization=held))
    if config.adapter is not None:
        put_adapter(network.language_model, config.adapter, checkpoint_folder.adapter_folder(folder))
        network.requires_grad_(False)
    config = _seen_as(config, network, model.test_crop_size, model.test_respect_ratio_max)
    tokenizer = load_tokenizer(checkpoint_folder.tokenizer_folder(folder))
    return config, network, tokenizer, fingerprint(config, sources, weight_sources.weights_sha256(folder))


def pretrained_folder(path: str | Path) -> Path | None:
    """The folder that a path or hub id stands for, where it holds a pretrained captioner of transformers; else None.

    One that was trained further is such a captioner too.

    Raises:
        UsageError: a path that is not there.
        WeightsError: a folder that holds no captioner, or a hub id that cannot be had.
    """
    if Path(path).expanduser().is_file():
        return None
    folder = captioner_folder(str(path))
    return None if checkpoint_folder.is_checkpoint(folder) and not checkpoint_folder.is_tuned(folder) else folder


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        UsageError: torch sees no such device, or captioners run on none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise UsageError(f"device {name!r}: torch sees {seen} CUDA devices; use 'cpu' or 'auto'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name!r}: torch sees no such device; use 'cpu' or 'auto'")
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name; `auto` is float32 on a CPU, bfloat16 on a GPU (float16 on one that lacks it).

    Raises:
        UsageError: an unknown name.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in known:
        raise UsageError(f"dtype {name!r}: expected auto, {', '.join(known)}")
    return known[name]


def captioner_folder(path: str, revision: str | None = None) -> Path:
    """The directory of the captioner, of ours or of transformers, that a path or hub id stands for."""
    folder = Path(path).expanduser()
    expected = "a checkpoint directory, a pretrained captioner, or an old tool's .pt file is expected"
    if not checkpoint_folder.is_checkpoint(folder) and not (folder / checkpoint_folder.CONFIG).is_file():
        if folder.is_dir():
            raise UsageError(f"model_path {path!r}: the folder has no config.json; {expected}")
        if not is_hub_id(path):
            raise UsageError(f"model_path {path!r}: there is no such file or folder; {expected}")
        folder = hub.resolve_captioner(path, revision)
    if not checkpoint_folder.is_checkpoint(folder):
        settings = checkpoint_folder.read_json(folder)
        model_type = settings.get("model_type")
        if not isinstance(model_type, str) or loader(settings) is None:
            seen = f"model_type {model_type!r}" if model_type else "no image_encoder"
            raise WeightsError(f"model_path {path!r}: its config.json is not a captioner's ({seen}); {expected}")
        folder = hub.resolve_captioner(str(folder))
    return folder


def _contradictions(config: CaptionerConfig, folder: Path, model: ModelParams) -> None:
    names = ",".join(encoder.image_encoder.name for encoder in config.encoders)
    own = {
        "image_encoder_type": (model.image_encoder_type, names),
        "language_model": (model.language_model, config.language_model.name),
        "mapping_type": (model.mapper, config.mapper and config.mapper.type),
        "output_grid": (model.output_grid, config.image_encoder.output == "grid"),
        "input_resolution": (model.input_resolution, config.transform.resolution),
    }
    wrong = [
        f"{name} {given!r} was given and the checkpoint has {found!r}"
        for name, (given, found) in own.items()
        if given is not None and given != found
    ]
    if wrong:
        raise UsageError(f"{folder}: {'; '.join(wrong)}. A checkpoint describes itself: leave these keys out")


def _network(
    config: CaptionerConfig,
    tensors: dict[str, Tensor],
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    device_map: DeviceMap | None,
) -> tuple[GitNetwork, list[Path]]:
    """The network of `config` filled with `tensors` and its frozen parts, and where these were found."""
    sources: list[Path] = []
    encoders = [] if config.mixes_stored else [_encoder(encoder, sources) for encoder in config.encoders]
    weights = config.language_model.weights
    stored = weights is None and quantization_of(config.language_model.architecture) == "none"
    if weights is not None:
        folder = hub.resolve_language_model(weights.id, weights.revision)
        weight_sources.check_source(weights, folder)
        sources.append(folder)
        language_model = build_language_model(config.language_model, folder, dtype, device, device_map)
    elif stored:
        language_model = build_language_model(config.language_model, None, dtype, "cpu")
    else:
        own = {name.removeprefix(LANGUAGE_MODEL): tensors[name] for name in tensors if name.startswith(LANGUAGE_MODEL)}
        language_model = from_stored(config.language_model, own, source, dtype, device, device_map)

    network = build_network(config, encoders, language_model, dtype)
    stored_tensors.fill(stored_tensors.of(config, network), tensors, source)
    if stored:  # quantized, or moved, once the weights are in place
        bits = config.language_model.quantization
        network.replace_language_model(converted(language_model, bits, dtype, device, device_map, source))
    network.place(device)
    return network.eval().requires_grad_(False), sources


def _encoder(config: EncoderConfig, sources: list[Path]) -> ImageEncoder:
    """An image encoder, with its weights where they are referred to, whose file is added to `sources`."""
    weights = config.image_encoder.weights
    file = None
    if weights is not None:
        file = hub.resolve_encoder(weights.id, weights.revision)
        weight_sources.check_source(weights, file)
        sources.append(file)
    return build_image_encoder(config.image_encoder, file, config.transform.resolution)


def _seen_as(
    config: CaptionerConfig, network: GitNetwork, crop_size: int | None, ratio_max: int | None
) -> CaptionerConfig:
    """The config with the size and shape of images that were asked for, and the image encoder told of them.

    Raises UsageError if these contradict each other or the image encoder cannot take such images.
    """
    transform = config.transform
    if crop_size is not None:
        transform = replace(transform, resolution=crop_size)
    if ratio_max is not None:
        transform = replace(transform, resize="keep", longest=ratio_max)
    if transform.longest is not None and transform.longest < transform.resolution:
        raise UsageError(
            f"'test_respect_ratio_max': {transform.longest} is less than the side that images are resized to, "
            f"{transform.resolution}; give at least that, or a lower 'test_crop_size'"
        )
    network.image_encoder.take(transform.resolution, any_shape=transform.resize == "keep")
    return replace(config, transform=transform)
