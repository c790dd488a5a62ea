"""Images that look like an earlier one: perceptual hashes at a small distance.

Hashes that differ in at most `DISTANCE` of 64 bits agree in one of `DISTANCE` + 1 bands of bits: only those that agree
in a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from git_caption.downloads.status import StatusRow

DISTANCE = 3
BANDS = DISTANCE + 1
BAND_BITS = 64 // BANDS
Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def near_duplicates(rows: Iterable[StatusRow]) -> dict[int, int]:
    """Number of each row whose image looks like an earlier one → number of the first such.

    Memory: some 300 bytes an image.
    """
    found = [(row.number, int(row.hash, 16)) for row in rows if row.hash is not None]
    numbers = np.array([number for number, _ in found], np.int64)
    hashes = np.array([value for _, value in found], np.uint64)
    unique, first = np.unique(hashes, return_index=True)  # of each hash the first row
    earliest = {int(value): int(numbers[index]) for value, index in zip(unique, first, strict=True)}
    nearest = dict(earliest)
    for one, others in _alike(unique):
        best = min(earliest[int(value)] for value in others)
        nearest[int(unique[one])] = min(nearest[int(unique[one])], best)
    pairs = ((number, nearest[value]) for number, value in found)
    return {number: earlier for number, earlier in pairs if earlier != number}


def _alike(unique: Hashes) -> Iterator[tuple[int, Hashes]]:
    """Position of a hash, and the hashes near it that agree in one band."""
    for band in range(BANDS):
        bits = (unique >> np.uint64(band * BAND_BITS)) & np.uint64((1 << BAND_BITS) - 1)
        order = np.argsort(bits, kind="stable")
        ends = np.flatnonzero(np.diff(bits[order])) + 1
        for group in np.split(order, ends):
            if len(group) < 2:
                continue
            values = unique[group]
            for position in group:
                near = values[np.bitwise_count(values ^ unique[position]) <= DISTANCE]
                if len(near) > 1:
                    yield int(position), near
