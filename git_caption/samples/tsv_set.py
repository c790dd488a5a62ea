"""A TSV with the companions beside it, row by row: images, captions and questions of one data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from git_caption.errors import DataError
from git_caption.params.tsv_names import companions, stem
from git_caption.tsv.file import TsvFile


class TsvSet:
    """Rows of `NAME.img.tsv`, or of any TSV, with `NAME.caption.tsv` and `NAME.question.tsv` where they are there.

    Picklable. Raises DataError if the files have different numbers of rows.
    """

    def __init__(self, tsv: str | Path) -> None:
        self.files = [TsvFile(path) for path in (str(tsv), *companions(str(tsv)))]
        for other in self.files[1:]:
            if len(other) != len(self.files[0]):
                raise DataError(
                    f"{tsv} has {len(self.files[0])} rows and {other.path} beside it {len(other)}; expected one row "
                    "for each image, in the same order"
                )

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(file.path for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.inputs)

    @property
    def endings(self) -> tuple[str, ...]:
        """What the names of the companions add to their beginning."""
        begin = stem(str(self.files[0].path))
        return tuple(str(file.path).removeprefix(begin) for file in self.files[1:])

    def outputs(self, out_tsv: str) -> tuple[Path, ...]:
        """The files of a set that is called `out_tsv`."""
        return (Path(out_tsv), *(Path(stem(out_tsv) + ending) for ending in self.endings))

    def __len__(self) -> int:
        return len(self.files[0])

    def lines(self, row: int) -> tuple[bytes, ...]:
        """The row's line of each file. Raises DataError if their keys differ."""
        found = tuple(file.raw(row) for file in self.files)
        first, *others = (line.partition(b"\t")[0] for line in found)
        for file, key in zip(self.files[1:], others, strict=True):
            if key != first:
                raise DataError(
                    f"{file.where(row)}: the key is {key[:80]!r}, and {first[:80]!r} in {self.files[0].where(row)}; "
                    "expected the same keys in the same order"
                )
        return found


class SelectedRows:
    """Rows of some sets, in an order: the source of jobs that rearrange them.

    order: int64[rows], numbers of rows as if the sets were one after the other.
    Memory: 8 bytes a row. Raises DataError if the sets have not the same companions.
    """

    def __init__(self, sets: Sequence[TsvSet], order: npt.NDArray[np.int64] | range) -> None:
        for other in sets[1:]:
            if other.endings != sets[0].endings:
                raise DataError(
                    f"{sets[0].inputs[0]} has {_named(sets[0])} beside it and {other.inputs[0]} {_named(other)}; "
                    "expected the same of all"
                )
        self.sets = list(sets)
        self.order = order
        self._begins = np.cumsum([0, *map(len, sets)])

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files of all sets."""
        return tuple(path for each in self.sets for path in each.inputs)

    def __len__(self) -> int:
        return len(self.order)

    def read(self, row: int) -> tuple[bytes, ...]:
        """The lines of a row. Raises DataError as `TsvSet.lines`: the files do not belong together."""
        number = int(self.order[row])
        which = int(np.searchsorted(self._begins, number, side="right")) - 1
        return self.sets[which].lines(number - int(self._begins[which]))


def _named(rows: TsvSet) -> str:
    return " and ".join(f"NAME{ending}" for ending in rows.endings) or "nothing"
