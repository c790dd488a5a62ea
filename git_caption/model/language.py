"""Language models: any causal LM of transformers, in full precision, 8 bits or 4 bits."""

from __future__ import annotations

import inspect
import json
import pickle
import tempfile
import weakref
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.import_utils import is_bitsandbytes_available

from git_caption.errors import UsageError, WeightsError
from git_caption.model.device_map import DeviceMap
from git_caption.model.weights import described

if TYPE_CHECKING:
    from git_caption.params.model import LanguageModelConfig

Quantization = Literal["none", "8bit", "4bit"]
FLAGS: dict[Quantization, str] = {"8bit": "load_in_8bit", "4bit": "load_in_4bit"}  # of a quantization_config

# buffers that old versions of transformers stored beside the weights; the models compute them now
COMPUTED = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".crossattention.bias",
    ".crossattention.masked_bias",
    ".embeddings.position_ids",
)


def build_language_model(
    config: LanguageModelConfig,
    folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    device_map: DeviceMap | None = None,
) -> PreTrainedModel:
    """Build the language model of `config` on `device`, in evaluation mode.

    Args:
        config: its name, architecture and quantization.
        folder: a model folder as `save_pretrained` writes it; one saved in 8 or 4 bits stays as it is. None builds
            `config.architecture` with random weights, to be loaded or trained by the caller (and quantized or spread
            over devices after that, by `converted`).
        dtype: of the weights, or of what is left unquantized.
        device: where the model goes, unless `device_map` says it.
        device_map: over which devices the weights of a folder are spread.

    Raises:
        UsageError: an architecture transformers does not know, a quantization that is not installed or not the
            stored one, or a device map that does not fit.
        WeightsError: a folder that holds no loadable causal LM, or tensors that are not the model's.
    """
    if folder is None:
        return _on(_from_architecture(config, dtype), device)
    return _from_folder(folder, config.quantization, dtype, device, device_map)


def converted(
    model: PreTrainedModel,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
    source: str = "the language model",
) -> PreTrainedModel:
    """A loaded model on `device` or spread over several, in 8 or 4 bits where asked.

    Quantizing and spreading are done while weights are read, so the model goes through a folder. Parameters and errors
    are those of `build_language_model`; `source` is where the weights are from, for errors.
    """
    if quantization == "none" and device_map is None:
        return _on(model, device)
    with ExitStack() as stack, _quiet():
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_language_model_"))
        model.save_pretrained(folder)
        found = _from_folder(Path(folder), quantization, dtype, device, device_map, source)
        _kept_for(found, stack)
        return found


def from_stored(
    config: LanguageModelConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
) -> PreTrainedModel:
    """The model of 8- or 4-bit `tensors`, as its `state_dict` gave them: they are not quantized again.

    Args:
        config: its architecture holds the `quantization_config`.
        tensors: by name.
        source: where they are from, for errors.
        dtype: of what is not quantized.
        device: where the model goes.
        device_map: or over which devices it is spread.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_language_model_")))
        (folder / "config.json").write_text(json.dumps(config.architecture), encoding="utf-8")
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        found = _from_folder(folder, config.quantization, dtype, device, device_map, source)
        _kept_for(found, stack)
        return found


def quantization_of(architecture: Mapping[str, Any] | None) -> Quantization:
    """The precision that a transformers config says its weights are stored in.

    Raises:
        WeightsError: it is neither full precision nor 8 or 4 bits of bitsandbytes.
    """
    stored = (architecture or {}).get("quantization_config")
    if not stored:
        return "none"
    for name, flag in FLAGS.items():
        if stored.get(flag):
            return name
    raise WeightsError(
        f"the language model is quantized by {stored.get('quant_method')!r}; "
        "expected full precision, or 8 or 4 bits of bitsandbytes"
    )


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its embeddings; under a device map that is not where all of it is."""
    embedding = model.get_input_embeddings()
    moved_to = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)  # accelerate's, if it holds them
    return torch.device(embedding.weight.device if moved_to is None else moved_to)  # type: ignore[arg-type]


def width(model: PreTrainedModel) -> int:
    """D_l: the width of the embeddings the model takes (OPT-350m's differs from its hidden width)."""
    return int(model.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]


def context_length(model: PreTrainedModel) -> int | None:
    """How many positions the model has; None where it has no limit."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def check_context(model: PreTrainedModel, before: int, new_tokens: int) -> None:
    """Refuse what does not fit: `before` positions of prefix and prompt, and `new_tokens` after them.

    Raises:
        UsageError: together they are more than the model's positions.
    """
    limit = context_length(model)
    if limit is not None and before + new_tokens > limit:
        raise UsageError(
            f"prefix and prompt take {before} positions and {new_tokens} tokens follow, the language model has {limit} "
            "positions: shorten the prompt or the text"
        )


def forward_keys(model: PreTrainedModel) -> Container[str]:
    """The keyword arguments of the model's forward pass; of the model inside peft's wrapper, which takes anything."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    return inspect.signature(inner.forward).parameters


def position_ids(mask: Tensor) -> Tensor:
    """The positions of a left-padded batch: long[B, L] from a mask [B, L], counting real tokens only.

    GPT-2 numbers positions from the left edge otherwise, padding included, and its logits are wrong.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _from_architecture(config: LanguageModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    if config.architecture is None:
        raise UsageError(f"language model {config.name!r} has neither a folder of weights nor an architecture")
    # an end token that is not named is none: a family's usual one may be any token of this model's tokenizer
    settings = {"eos_token_id": None, **config.architecture}
    model_type = settings.pop("model_type", None)
    try:
        architecture = AutoConfig.for_model(model_type, **settings)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            architecture, dtype=dtype, trust_remote_code=False
        )
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"language_model.architecture with model_type {model_type!r}: {reason}") from error
    return model


def _from_folder(
    folder: Path,
    asked: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    device_map: DeviceMap | None = None,
    source: str | None = None,
) -> PreTrainedModel:
    source = source or str(folder)
    with ExitStack() as stack:
        options = _quantizing(folder, asked, dtype, device, source)
        if device_map is not None:
            offloaded = stack.enter_context(tempfile.TemporaryDirectory(prefix="git_caption_offload_"))
            options |= {**device_map.options(folder), "offload_folder": offloaded}
        model = _loaded(folder, dtype, options, source)
        _kept_for(model, stack)
    # generation_config.json may name end tokens that config.json does not; kept here they reach every checkpoint
    if model.generation_config is not None and model.generation_config.eos_token_id is not None:
        model.config.eos_token_id = model.generation_config.eos_token_id
    if "device_map" not in options:
        model.to(device)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_pretrained_model(
    folder: Path,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    kind: Any,
    called: str,
    in_full: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> PreTrainedModel:
    """Load any model of transformers from its folder, exactly, in evaluation mode.

    Args:
        folder: config.json and weights, as `save_pretrained` writes them.
        quantization: none, 8bit or 4bit.
        dtype: of the weights, or of what is left unquantized.
        device: where the model goes.
        kind: the class of transformers that loads it.
        called: what errors call it.
        in_full: patterns of the names of modules that are not quantized.
        unused: parts of names of tensors that may be missing, for nothing is computed with them.

    Raises:
        UsageError: a quantization that is not installed.
        WeightsError: it is no such model, or tensors are missing, unexpected or misshapen; all listed together.
    """
    options = _quantizing(folder, quantization, dtype, device, str(folder), in_full)
    model = _loaded(folder, dtype, options, str(folder), kind=kind, called=called, unused=unused)
    return model.eval() if "device_map" in options else _on(model, device)  # type: ignore[no-untyped-call]


def _quantizing(
    folder: Path,
    asked: Quantization,
    dtype: torch.dtype,
    device: torch.device | str,
    source: str,
    in_full: Sequence[str] = (),
) -> dict[str, Any]:
    """What `from_pretrained` is told about bits: nothing of weights in full precision that stay so."""
    try:
        stored = quantization_of(_json(folder / "config.json"))
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    if asked != "none" and stored not in ("none", asked):
        raise UsageError(
            f"{source}: the weights are stored in {stored} and quantization {asked!r} was asked for: "
            f"leave it out, or start from weights in full precision"
        )
    bits = stored if asked == "none" else asked
    if bits == "none":
        return {}
    quantizing = {"quantization_config": _quantization_config(bits, dtype, in_full)}
    return {"device_map": {"": device}} | (quantizing if stored == "none" else {})


def _loaded(
    folder: Path,
    dtype: torch.dtype,
    options: dict[str, Any],
    source: str,
    *,
    kind: Any = AutoModelForCausalLM,
    called: str = "causal language model",
    unused: Sequence[str] = (),
) -> PreTrainedModel:
    try:
        with _quiet():
            loaded: Any = kind.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, with all else that does not fit
                **options,
            )
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, and not the folder's fault
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{source}: not a loadable {called}: {str(error).splitlines()[0]}") from error
    model, info = loaded
    unexpected = [name for name in info["unexpected_keys"] if not name.endswith(COMPUTED)]
    misshapen = [
        f"{name} is {tuple(seen)}, expected {tuple(expected)}" for name, seen, expected in info["mismatched_keys"]
    ]
    missing = [name for name in info["missing_keys"] if not any(part in name for part in unused)]
    found = described({"missing": sorted(missing), "unexpected": sorted(unexpected), "misshapen": misshapen})
    if found:
        raise WeightsError(f"{source} does not fit the {called}: {found}")
    assert isinstance(model, PreTrainedModel)
    return model


def _kept_for(model: PreTrainedModel, stack: ExitStack) -> None:
    """Keep temporary folders for as long as the model lives, if it reads weights from them (`disk` of a device map)."""
    if "disk" in getattr(model, "hf_device_map", {}).values():
        weakref.finalize(model, stack.pop_all().close)


def _json(path: Path) -> Any:
    """The content of a JSON file; nothing where it cannot be read, which whoever needs it will say."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load report: what does not fit is raised, in one line."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity(ERROR)
    accelerate = getLogger("accelerate.big_modeling")  # says that weights are on the disk, as a device map asked
    level = accelerate.level
    accelerate.setLevel(ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _on(model: nn.Module, device: torch.device | str) -> PreTrainedModel:
    model.to(device).eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _quantization_config(
    quantization: Quantization, dtype: torch.dtype, in_full: Sequence[str] = ()
) -> BitsAndBytesConfig:
    if quantization not in FLAGS:
        raise UsageError(f"unknown quantization {quantization!r}, known: none, 8bit, 4bit")
    if not is_bitsandbytes_available():
        raise UsageError(f"{quantization} loading needs bitsandbytes: pip install 'git-caption[8bit]'")
    # bitsandbytes says at every product that it works in float16, which is what 8 bits means there
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
    options: dict[str, Any] = {FLAGS[quantization]: True}
    if quantization == "4bit":
        options |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    if in_full:
        options["llm_int8_skip_modules"] = list(in_full)
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]
