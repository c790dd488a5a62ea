"""A list looked through once before the download: how many rows, which addresses come again, a digest of it all.

In constant memory, repeats aside: a number for each address is sorted into files, one of which is read at a time.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from git_caption.downloads.list import UrlList

PARTS = 64
BUFFERED = 4096  # numbers kept of a part before they are written

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, chosen by the address, so that one address is in one part only."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def holds(self, url: str) -> bool:
        """Whether the address is in this part."""
        return self.count == 1 or number_of(url) % self.count == self.index


def number_of(url: str) -> int:
    """64 bits of a digest of the address."""
    return int.from_bytes(hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        rows: number of rows.
        digest: SHA-256 of the addresses in their order.
        repeats: int64[R], ascending: rows whose address an earlier row has.
        first: int64[R]: those earlier rows, the first of their address each.
    """

    rows: int
    digest: str
    repeats: Rows
    first: Rows

    def again(self, row: int) -> list[int]:
        """The later rows of the address that comes first in `row`."""
        begin, end = np.searchsorted(self._by_first[0], [row, row + 1])
        found: list[int] = self._by_first[1][begin:end].tolist()
        return found

    @cached_property
    def _by_first(self) -> tuple[Rows, Rows]:
        order = np.argsort(self.first, kind="stable")
        return self.first[order], self.repeats[order]


def survey(source: UrlList) -> Survey:
    """Look a list through; the folder for temporary files takes 16 bytes a row. Raises DataError as the list does."""
    digest = hashlib.sha256()
    rows = 0
    with ExitStack() as stack:
        parts = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(PARTS)]
        pending = [array("Q") for _ in parts]
        for row in source:
            rows += 1
            digest.update(row.url.encode("utf-8", "replace") + b"\n")
            if not row.url:
                continue
            number = number_of(row.url)
            part = number % PARTS
            pending[part].extend((number, row.number))
            if len(pending[part]) >= BUFFERED:
                _flush(parts[part], pending[part])
        found = []
        for file, rest in zip(parts, pending, strict=True):
            _flush(file, rest)
            file.seek(0)
            found.append(_repeats(np.frombuffer(file.read(), np.uint64).reshape(-1, 2)))
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return Survey(rows, digest.hexdigest(), pairs[:, 0].copy(), pairs[:, 1].copy())


def _flush(file: BinaryIO, pending: array[int]) -> None:
    file.write(pending.tobytes())
    del pending[:]


def _repeats(entries: npt.NDArray[np.uint64]) -> Rows:
    """int64[R, 2] of entries uint64[N, 2] (number of the address, row): rows that are not the first, and the first."""
    entries = entries[np.lexsort((entries[:, 1], entries[:, 0]))]
    numbers, rows = entries[:, 0], entries[:, 1].astype(np.int64)
    begins = np.ones(len(entries), bool)
    begins[1:] = numbers[1:] != numbers[:-1]
    first = rows[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return np.stack([rows, first], axis=1)[~begins]
