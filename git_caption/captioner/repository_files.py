"""Which files a language model, an image encoder or a captioner is made of, in a repository or in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from git_caption.errors import WeightsError
from git_caption.params.json_file import read_object

LANGUAGE_MODEL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FOLDER_FILES = ("config.json", "preprocessor_config.json")  # of an image encoder, beside the weights
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
OPEN_CLIP_CONFIG = "open_clip_config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
SECOND_TOKENIZER = "qformer_tokenizer/"  # of InstructBLIP
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "tokenizer.model",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)

# Takes the names of the files of a repository; gives those wanted and, in words, those that are not among them.
Choice = Callable[[Collection[str]], tuple[list[str], list[str]]]


def names_in(folder: Path) -> list[str]:
    """The names of the files in a folder and below it, sorted, as a repository's are written."""
    # is_file() follows the cache's links, so a link to a blob that is gone does not count.
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def weight_files(path: Path) -> list[Path]:
    """The files a part's weights are read from: `path` itself, or those of a language model's folder."""
    if path.is_file():
        return [path]
    wanted, _ = language_model_files(names_in(path))
    return [path / name for name in sorted(wanted) if name.endswith((".safetensors", ".bin"))]


def describing_files(path: Path) -> list[tuple[str, Path]]:
    """The small files that say what to do with a part's weights, with their names: those beside a file, or in a folder.

    Those are configs, vocabulary and chat template; beside a file, where anything may lie, open_clip's description.
    """
    if path.is_file():
        beside = path.with_name(OPEN_CLIP_CONFIG)
        return [(OPEN_CLIP_CONFIG, beside)] if beside.is_file() else []
    return [(name, path / name) for name in _descriptions(names_in(path))]


def incomplete(folder: Path | None, choice: Choice) -> list[str]:
    """What of the wanted files is not in the folder, the shards that a chosen index names among them.

    Raises:
        WeightsError: the index cannot be read.
    """
    if folder is None:
        return choice([])[1]
    names = names_in(folder)
    wanted, missing = choice(names)
    for index in (name for name in wanted if name.endswith(".index.json")):
        missing += sorted(_shards(folder / index) - set(names))
    return missing


def language_model_files(names: Collection[str], weights: bool = True) -> tuple[list[str], list[str]]:
    """Configs, tokenizer and, unless they are elsewhere, the weights of a language model."""
    wanted = _descriptions(names)
    missing = [] if "config.json" in names else ["config.json"]
    if weights:
        found, lacking = _weight_files(names)
        wanted, missing = wanted + found, missing + lacking
    if not any(name in names for name in TOKENIZER_FILES):
        missing.append(f"a tokenizer ({', '.join(TOKENIZER_FILES[:3])})")
    return wanted, missing


def checkpoint_files(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of a checkpoint of ours."""
    folders = ("tokenizer/", "adapter/")
    wanted = [name for name in names if name in {"config.json", "model.safetensors"} or name.startswith(folders)]
    missing = [name for name in ("config.json", "model.safetensors") if name not in names]
    if not any(name.startswith("tokenizer/") for name in names):
        missing.append("tokenizer/")
    return wanted, missing


def captioner_files(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of a pretrained captioner where its tokenizer or image processor is there, else of a checkpoint of ours."""
    if not any(name in names for name in (*PROCESSOR_FILES, *TOKENIZER_FILES)):
        return checkpoint_files(names)
    wanted, missing = language_model_files(names)
    if not any(name in names for name in PROCESSOR_FILES):
        missing.append(" or ".join(PROCESSOR_FILES))
    return wanted, missing


def clip_files(names: Collection[str], file: str | None = None) -> tuple[list[str], list[str]]:
    """The weights of a CLIP model, in `file` or under a usual name, and the description beside them."""
    possible = OPEN_CLIP_WEIGHTS if file is None else (file,)
    found = [name for name in possible if name in names][:1]
    if not found:
        return [], [" or ".join(possible)]
    return found + [name for name in names if name == OPEN_CLIP_CONFIG], []


def encoder_files(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of a CLIP model, else of an image encoder of transformers."""
    wanted, missing = clip_files(names)
    if not missing:
        return wanted, []
    weights, no_weights = _weight_files(names)
    absent = [name for name in FOLDER_FILES if name not in names]
    if no_weights and not weights and absent == list(FOLDER_FILES):
        return [], [f"{missing[0]} (CLIP), or {', '.join(FOLDER_FILES)} and {no_weights[0]} (transformers)"]
    return [name for name in FOLDER_FILES if name in names] + weights, absent + no_weights


def any_files(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of a checkpoint of ours, of a language model, or of an image encoder, by what the repository holds."""
    for choice in (checkpoint_files, clip_files, language_model_files, encoder_files):
        wanted, missing = choice(names)
        if not missing:
            return wanted, []
    return language_model_files(names)


def _descriptions(names: Collection[str]) -> list[str]:
    """The configs, vocabularies and chat templates of a model of transformers."""
    at_top = [name for name in names if "/" not in name.removeprefix(SECOND_TOKENIZER)]
    described = [name for name in at_top if name.endswith((".json", ".txt", ".model", ".jinja"))]
    return [name for name in described if not name.endswith(".index.json")]


def _weight_files(names: Collection[str]) -> tuple[list[str], list[str]]:
    """The weights of a model of transformers, in one file or in the shards of an index."""
    for name in LANGUAGE_MODEL_WEIGHTS:
        stem, suffix = name.rsplit(".", 1)
        if name in names:
            return [name], []
        if f"{name}.index.json" in names:
            shard = re.compile(rf"{stem}-\d+-of-\d+\.{suffix}")
            return [f"{name}.index.json", *(other for other in names if shard.fullmatch(other))], []
    return [], [" or ".join(LANGUAGE_MODEL_WEIGHTS)]


def _shards(index: Path) -> set[str]:
    """The files that an index says the tensors are in."""
    files = read_object(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise WeightsError(f"{index}: no weight_map, expected names of tensors with the file of each")
    return set(files.values())
