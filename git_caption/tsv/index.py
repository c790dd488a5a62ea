"""The index beside a TSV file: where each line begins.

`name.lineidx` holds the offsets as decimals, one a line; `name.lineidx.8b` holds the same as little-endian int64. The
names and both formats are those of GenerativeImage2Text's `tsv_io.py`, so files move between the two tools.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]

OFFSET_TYPE = np.dtype("<i8")
BLOCK_BYTES = 1 << 22
SAMPLES = 64
DECIMAL_ROWS = 1 << 14  # written at once as decimals: what fits the processor's cache

# b"0000", b"0001", ... as words. Python's own conversion would take ten times as long as the scan of short lines.
FOUR_DIGITS = (ord("0") + np.arange(10_000)[:, None] // [1000, 100, 10, 1] % 10).astype(np.uint8).view(np.uint32)[:, 0]


def index_paths(tsv: str | Path) -> tuple[Path, Path]:
    """Names of the decimal and of the binary index of `tsv`: its last extension gives way to `.lineidx`."""
    stem = os.path.splitext(tsv)[0]
    return Path(stem + ".lineidx"), Path(stem + ".lineidx.8b")


TEMPORARY = re.compile(r".+\.\d+-[0-9a-f]{8}\.tmp")


def temporary_path(path: str | Path, folder: str | Path | None = None) -> Path:
    """A name that no other writer uses, to be renamed to `path` when complete; beside it, or in `folder`."""
    path = Path(path)
    return (path.parent if folder is None else Path(folder)) / f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


class LineStarts:
    """Finds where lines begin in text that comes in blocks cut at any byte.

    `count` is the number of bytes seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._at_start = True

    def feed(self, block: bytes | memoryview) -> Offsets:
        """Offsets of the lines that begin inside `block`; a line begins only where it has a byte."""
        if len(block) == 0:
            return np.empty(0, dtype=OFFSET_TYPE)
        values = np.frombuffer(block, dtype=np.uint8)
        starts = np.flatnonzero(values == ord("\n")) + (self.count + 1)
        ends_line = values[-1] == ord("\n")
        if ends_line:  # the line after it, if there is one, begins in the next block
            starts = starts[:-1]
        if self._at_start:
            starts = np.concatenate(([self.count], starts))
        self._at_start = bool(ends_line)
        self.count += len(block)
        return starts.astype(OFFSET_TYPE, copy=False)


def scan(tsv: str | Path) -> Iterator[Offsets]:
    """Offsets of all lines of the file, a block at a time, in constant memory."""
    starts = LineStarts()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with open(tsv, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            yield starts.feed(buffer[:size])


class IndexWriter:
    """Writes both index files under temporary names, beside the TSV or in `folder`; `commit` gives them their own.

    `close` without `commit` removes what was written. Raises OSError where the folder or the disk refuses.
    """

    def __init__(self, tsv: str | Path, folder: str | Path | None = None) -> None:
        self._finals = index_paths(tsv)
        self._temporaries: list[Path] = []
        self._files: list[BinaryIO] = []
        try:
            for final in self._finals:
                temporary = temporary_path(final, folder)
                self._files.append(open(temporary, "xb"))  # noqa: SIM115 - closed by commit or close
                self._temporaries.append(temporary)
        except OSError:
            self.close()
            raise

    def extend(self, offsets: Offsets) -> None:
        """Adds the offsets of the next lines."""
        decimal, binary = self._files
        for start in range(0, len(offsets), DECIMAL_ROWS):
            decimal.write(_decimals(offsets[start : start + DECIMAL_ROWS]))
        binary.write(offsets.astype(OFFSET_TYPE, copy=False).tobytes())

    def commit(self, mtime_ns: int) -> None:
        """Puts both files in place, dated as the TSV they describe.

        With the TSV's own date, taken before it was read, an index is older than its TSV as soon as the TSV changes,
        and never looks older merely because a clock ran behind.
        """
        for file in self._files:
            file.close()
        for temporary, final in zip(self._temporaries, self._finals, strict=True):
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
            os.replace(temporary, final)
        self._temporaries.clear()

    def close(self) -> None:
        """Removes what was not committed."""
        for file in self._files:
            file.close()
        for temporary in self._temporaries:
            temporary.unlink(missing_ok=True)
        self._temporaries.clear()


def _decimals(offsets: Offsets) -> bytes:
    """Ascending offsets as decimals, one a line."""
    lengths = range(1, len(str(offsets[-1])) + 1)
    bounds = [0, *np.searchsorted(offsets, [10**length for length in lengths]).tolist()]
    return b"".join(
        _of_length(offsets[first:last], length)
        for length, first, last in zip(lengths, bounds[:-1], bounds[1:], strict=True)
        if first < last
    )


def _of_length(offsets: Offsets, length: int) -> bytes:
    """Offsets of `length` digits each as decimals, one a line."""
    groups = -(-length // 4)
    words = np.empty((len(offsets), groups + 1), dtype=np.uint32)
    for group in reversed(range(groups)):
        rest = offsets // 10_000
        words[:, group] = FOUR_DIGITS[offsets - 10_000 * rest]
        offsets = rest
    lines = words.view(np.uint8)
    lines[:, 4 * groups] = ord("\n")
    return lines[:, 4 * groups - length : 4 * groups + 1].tobytes()


def load(tsv: str | Path, descriptor: int) -> Offsets | None:
    """The stored index as a memory-mapped int64 array, or None where there is none that is true of the file.

    `descriptor` is the open TSV. True means: not older than the file; the first offset is 0; the last begins the last
    line; 64 sampled offsets, evenly spread, and the last but one grow and each follows a newline.
    """
    status = os.fstat(descriptor)
    path = index_paths(tsv)[1]
    try:
        with open(path, "rb") as file:
            stored = os.fstat(file.fileno())
            if stored.st_mtime_ns < status.st_mtime_ns or stored.st_size % OFFSET_TYPE.itemsize:
                return None
            if stored.st_size == 0:
                return np.empty(0, dtype=OFFSET_TYPE) if status.st_size == 0 else None
            offsets = np.asarray(np.memmap(file, dtype=OFFSET_TYPE, mode="r"))
    except OSError:  # absent or unreadable: the caller scans the file instead
        return None
    return offsets if _is_true(offsets, descriptor, status.st_size) else None


def _is_true(offsets: Offsets, descriptor: int, size: int) -> bool:
    rows = np.linspace(0, len(offsets) - 1, SAMPLES).astype(np.int64)
    sampled: list[int] = offsets[np.unique([*rows, max(0, len(offsets) - 2)])].tolist()
    if sampled[0] != 0 or sampled[-1] >= size or any(a >= b for a, b in pairwise(sampled)):
        return False
    if any(os.pread(descriptor, 1, offset - 1) != b"\n" for offset in sampled[1:]):
        return False
    position = sampled[-1]
    while position < size:  # the last line holds no newline before the file's last byte
        block = os.pread(descriptor, BLOCK_BYTES, position)
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline == size - 1
        if not block:
            return False
        position += len(block)
    return True


def folder_is_read_only(folder: Path) -> bool:
    """True where nobody is meant to write: no write permission for us, or for anyone.

    The second matters for root (in containers), who could write into a folder that was made read-only on purpose.
    """
    return not os.access(folder, os.W_OK) or not folder.stat().st_mode & 0o222


def build(tsv: str | Path) -> Offsets | None:
    """Scans the file and stores its index; None where it cannot be stored (read-only folder, full disk)."""
    path = Path(tsv)
    if folder_is_read_only(Path(os.path.abspath(path)).parent):
        return None
    mtime_ns = path.stat().st_mtime_ns
    try:
        writer = IndexWriter(tsv)
    except OSError:
        return None
    try:
        for offsets in scan(tsv):
            writer.extend(offsets)
        writer.commit(mtime_ns)
    except OSError:
        return None
    finally:
        writer.close()
    with open(tsv, "rb") as file:
        return load(tsv, file.fileno())
