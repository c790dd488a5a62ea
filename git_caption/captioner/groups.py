"""Rows of a batch that have to be computed apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def in_groups(kinds: Sequence[Hashable], compute: Callable[[list[int]], Sequence[Result]]) -> list[Result]:
    """The results of all rows, in order; rows of one kind are computed together.

    Args:
        kinds: of each row.
        compute: takes the numbers of rows of one kind; gives a result for each.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    found = {row: result for rows in groups.values() for row, result in zip(rows, compute(rows), strict=True)}
    return [found[row] for row in range(len(kinds))]
