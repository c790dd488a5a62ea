"""The cache that the Hugging Face hub's own client keeps: where it is and what is in it. Makes no request."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder the hub's client keeps repositories in: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub.

    Read at every call rather than at import, so that a program may set the variables first.
    """
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface" / "hub"


def cached(repository: str, revision: str | None = None) -> Path | None:
    """The snapshot folder of a repository in the cache; None if it is not there."""
    stored = cache_folder() / ("models--" + repository.replace("/", "--"))
    reference = stored / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    if commit is None or not (stored / "snapshots" / commit).is_dir():
        return None
    return stored / "snapshots" / commit
