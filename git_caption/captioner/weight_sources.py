"""The sha256 of a part's weights: noted where a captioner refers to them, compared where they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from git_caption.captioner import checkpoint_folder
from git_caption.captioner.repository_files import weight_files
from git_caption.errors import WeightsError
from git_caption.params.model import WeightsSource

BLOCK = 1 << 20


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
    files = (
        checkpoint_folder.files(path)
        if checkpoint_folder.is_checkpoint(path)
        else {file.name: file for file in weight_files(path)}
    )
    if len(files) == 1:
        return _sha256_of_file(*files.values())
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name} {_sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
