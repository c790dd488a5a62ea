"""Where weights lie: a local path, or a repository in the cache that the Hugging Face hub's own client keeps.

The cache is read directly first, so what is there is found without a single request. Only what is missing is asked
of the hub, once and with short time limits, unless HF_HUB_OFFLINE forbids it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption.captioner.repository_files import (
    FOLDER_FILES,
    Choice,
    any_files,
    captioner_files,
    clip_files,
    encoder_files,
    incomplete,
    language_model_files,
    names_in,
)
from git_caption.errors import UsageError, WeightsError, reason
from git_caption.params.hub_cache import cache_folder, cached
from git_caption.params.paths import is_hub_id
from git_caption.params.pretrained import GIT_MODELS

if TYPE_CHECKING:
    from git_caption.model.clip_table import Pretrained

REQUEST_SECONDS = 5.0


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or the older TRANSFORMERS_OFFLINE) forbids requests."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def resolve_language_model(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a language model: config.json, weights (unless `weights` is False) and tokenizer.

    Args:
        name: a local folder, or a hub id as `gpt2-large`.
        revision: branch, tag or commit; `main` if not given.
        weights: whether the weight files are needed; False where they are elsewhere (an old tool's file).

    Raises:
        WeightsError: not in the cache and not to be had from the hub, or an incomplete folder.
        UsageError: a path that does not exist.
    """

    def choice(names: Collection[str]) -> tuple[list[str], list[str]]:
        return language_model_files(names, weights)

    return _folder(name, revision, choice, marker="config.json", what="language model")


def resolve_captioner(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint of ours or of a pretrained captioner. Raises as `resolve_language_model` does."""
    return _folder(name, revision, captioner_files, marker="config.json", what="captioner")


def resolve_encoder(name: str, revision: str | None = None) -> Path:
    """The weights of an image encoder: the file of a CLIP model, or the folder of one of transformers.

    Args:
        name: a local file or folder, one of OpenAI's names as `ViT-B/32`, one of open_clip's with a tag as
            `ViT-B-32:laion2b_s34b_b79k`, or a hub id. For OpenAI's names a file that the `clip` package has fetched
            is taken where the hub's cache has none.
        revision: branch, tag or commit of the repository; `main` if not given.

    Raises:
        WeightsError: not in the cache and not to be had from the hub.
        UsageError: a path that does not exist, or a name nobody knows.
    """
    from git_caption.model import clip_table  # here, for it brings open_clip and with it torch

    if (path := Path(name).expanduser()).is_file():
        return path
    if path.is_dir() and not incomplete(path, encoder_files):
        return _encoder_in(path, encoder_files)
    known = clip_table.pretrained(name)
    if known is not None:
        return _pretrained_clip(name, known, revision)
    if path.is_dir():
        raise WeightsError(f"image encoder {name!r}: the folder lacks {', '.join(incomplete(path, encoder_files))}.")
    if not is_hub_id(name):
        raise UsageError(f"image encoder {name!r}: no such file")
    if cached(name, revision) is None and clip_table.nearest(name):
        raise clip_table.unknown(name)
    return _encoder_in(_snapshot(name, revision, encoder_files), encoder_files)


def fetch(name: str) -> Path:
    """Fetch whatever `name` is into the cache, if it is not here already: image encoder, language model or captioner.

    Raises:
        WeightsError: it cannot be had, or is an incomplete folder.
        UsageError: `name` is neither an image encoder nor a hub id nor a path to one, or has a tag that nobody knows.
    """
    from git_caption.model import clip_table  # here, for it brings open_clip and with it torch

    name = GIT_MODELS.get(name, name)
    if ":" in name or clip_table.architecture_name(name) is not None:
        return resolve_encoder(name)
    path = Path(name).expanduser()
    if path.is_dir() and not incomplete(path, any_files):
        return path
    if path.is_file() and not is_hub_id(name):
        return path
    if not path.exists() and not is_hub_id(name):
        raise UsageError(
            f"{name!r} is neither an image encoder (as 'ViT-B/32' or 'ViT-B-32:laion2b_s34b_b79k') nor a hub id (as "
            "'gpt2-large')."
        )
    return _folder(name, None, any_files, marker="config.json", what="model")


def _pretrained_clip(name: str, known: Pretrained, revision: str | None) -> Path:
    """The file of the weights that open_clip knows by `name`."""

    def choice(names: Collection[str]) -> tuple[list[str], list[str]]:
        return clip_files(names, known.file)

    if known.repository is None:
        raise WeightsError(f"{name}: open_clip names no repository of it; fetch {known.url} and give the file's path")
    if incomplete(cached(known.repository, revision), choice) and (kept := _kept_by_clip(known.url)):
        return kept
    return _encoder_in(_snapshot(known.repository, revision, choice, asked_as=name), choice)


def _kept_by_clip(url: str) -> Path | None:
    """OpenAI's file in the cache of the `clip` package (~/.cache/clip), if it is there."""
    path = Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[-1]
    return path if path.is_file() else None


def _encoder_in(folder: Path, choice: Choice) -> Path:
    """The file of a CLIP model in a complete folder, or the folder itself where it is one of transformers."""
    first = choice(names_in(folder))[0][0]
    return folder if first in FOLDER_FILES else folder / first


def _folder(name: str, revision: str | None, choice: Choice, *, marker: str, what: str) -> Path:
    path = Path(name).expanduser()
    # A folder without the marker is not taken: an output folder named as a hub id must not hide the repository.
    if (path / marker).is_file():
        if missing := incomplete(path, choice):
            raise WeightsError(f"{what} {name!r}: the folder lacks {', '.join(missing)}.")
        return path
    if not is_hub_id(name) or path.is_file():
        seen = f"lacks {marker}" if path.is_dir() else "is a file" if path.is_file() else "does not exist"
        raise UsageError(
            f"{what} {name!r}: a folder with {marker}, or a hub id as 'gpt2-large', is expected; it {seen}."
        )
    return _snapshot(name, revision, choice)


def _snapshot(repository: str, revision: str | None, choice: Choice, asked_as: str | None = None) -> Path:
    """The folder of a repository's snapshot, from the cache or, failing that, from the hub."""
    folder = cached(repository, revision)
    missing = incomplete(folder, choice)
    if folder is not None and not missing:
        return folder
    asked_as = asked_as or repository
    if is_offline():
        raise _unavailable(repository, asked_as, missing, "the hub was not asked (HF_HUB_OFFLINE)", "gated: unknown")
    wanted = _listed(repository, asked_as, revision, choice, missing)
    from huggingface_hub import snapshot_download

    try:
        downloaded = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_folder(),
            allow_patterns=wanted,
            etag_timeout=REQUEST_SECONDS,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # each version of the hub's client lets through the errors of its own HTTP library
        raise _unavailable(repository, asked_as, wanted, *_reason(error)) from error
    if missing := incomplete(Path(downloaded), choice):
        raise _unavailable(repository, asked_as, missing, "the download is incomplete", "gated: unknown")
    return Path(downloaded)


def _listed(repository: str, asked_as: str, revision: str | None, choice: Choice, missing: list[str]) -> list[str]:
    """The files to fetch, chosen from the hub's list of what the repository holds."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        info: Any = api.model_info(repository, revision=revision, timeout=REQUEST_SECONDS)
    except Exception as error:  # each version of the hub's client lets through the errors of its own HTTP library
        raise _unavailable(repository, asked_as, missing, *_reason(error)) from error
    wanted, absent = choice([sibling.rfilename for sibling in info.siblings or []])
    if absent:
        gated = "gated" if info.gated else "not gated"
        raise _unavailable(repository, asked_as, absent, "the repository does not hold them", gated)
    return wanted


def _reason(error: Exception) -> tuple[str, str]:
    """Why the hub did not give something, and whether it is gated, in words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "the hub refused it", "gated: ask for access on its page and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub knows no such repository, or it is private and HF_TOKEN is not set", "gated: unknown"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision", "gated: unknown"
    return f"the hub could not be reached ({type(error).__name__}: {reason(error)})", "gated: unknown"


def _unavailable(repository: str, asked_as: str, files: list[str], why: str, gated: str) -> WeightsError:
    variables = ", ".join(f"{name}={os.environ.get(name) or 'not set'}" for name in ("HF_HOME", "HF_HUB_OFFLINE"))
    command = f"python3 inference.py -p \"{{'type': 'prefetch', 'ids': ['{asked_as}']}}\""
    name = repository if asked_as == repository else f"{asked_as} ({repository})"
    return WeightsError(
        f"{name}: {', '.join(files)} not found in the cache {cache_folder()} ({variables}) and {why}; {gated}. "
        f"Where the hub can be reached, run {command} and set HF_HOME to the folder it fills; or give a local path."
    )
