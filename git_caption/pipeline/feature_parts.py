"""Parts that hold features: each is a small feature cache, and the output is one cache of them all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from git_caption.params.features import CacheDescription, StoredAs
from git_caption.samples.features import Block, FeatureCache, FeatureRow, write
from git_caption.samples.sample import Failure
from git_caption.tsv.writer import whole_file


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
        """Gives the number of rows with features; the cache stands there once the block ends."""

        def blocks() -> Iterator[Block]:
            return (FeatureCache(part).block for part in parts)  # one is open at a time: they may be thousands

        with whole_file(out, scratch) as file:
            write(file, blocks, self.description, self.stored_as)
            yield sum(int(np.count_nonzero(block.counts)) for block in blocks())
