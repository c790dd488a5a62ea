"""What tells captioners apart that may say different things."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from git_caption.captioner.repository_files import describing_files, weight_files
from git_caption.params.model import CaptionerConfig
from git_caption.params.pretrained import PretrainedConfig
from git_caption.params.schema import to_dict


def fingerprint(config: CaptionerConfig | PretrainedConfig, sources: list[Path], stored: str = "") -> str:
    """A digest of all that can change what the captioner says.

    What describes a part (configs, vocabulary, chat template) counts by its content. So do weights in the hub's cache;
    others are too large to be read twice and count by size and time of change.

    Args:
        config: how the captioner is used.
        sources: the files and folders its parts are read from, unless they are stored in a checkpoint.
        stored: the sha256 of what is.
    """
    parts: list[Any] = [stored, to_dict(config)]
    for source in sources:
        described = [(name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in describing_files(source)]
        parts.append([described, [(file.name, _version(file)) for file in weight_files(source)]])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _version(weights: Path) -> str | tuple[int, int]:
    """What changes with the weights in a file."""
    blob = weights.resolve()
    if blob.parent.name == "blobs" and blob.parents[1].name.startswith("models--"):
        return blob.name  # the hub's cache names files by their content
    found = weights.stat()
    return found.st_size, found.st_mtime_ns
