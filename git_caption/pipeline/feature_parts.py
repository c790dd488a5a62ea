"""Parts that hold features: each is a small feature cache, and the output is one cache of them all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from git_caption.params.features import CacheDescription, StoredAs
from git_caption.samples.features import Block, FeatureCache, FeatureRow, write
from git_caption.samples.sample import Failure
from git_caption.tsv.index import temporary_path
from git_caption.tsv.writer import sync_folder


@dataclass(frozen=True)
class FeatureParts:
    """A row gives a FeatureRow; a failed row has a key and no values."""

    description: CacheDescription
    stored_as: StoredAs

    suffix = ".safetensors"

    def encoded(self, outcomes: Sequence[FeatureRow | Failure], where: str) -> bytes:
        """The cache of a chunk."""
        none = np.zeros((0, 0), dtype=np.float32)
        rows = [FeatureRow(row.key, none) if isinstance(row, Failure) else row for row in outcomes]
        block = Block.of(rows, self.stored_as)
        file = io.BytesIO()
        write(file, lambda: iter([block]), self.description, self.stored_as)
        return file.getvalue()

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of rows; the cache stands there once the block ends."""

        def blocks() -> Iterator[Block]:
            return (FeatureCache(part).block for part in parts)  # one is open at a time: they may be thousands

        temporary = temporary_path(out, scratch)
        try:
            with open(temporary, "xb") as file:
                rows = write(file, blocks, self.description, self.stored_as)
                yield rows
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, out)
            sync_folder(out.parent)
        finally:
            temporary.unlink(missing_ok=True)
