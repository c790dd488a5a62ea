"""Which prompts are computed together."""

from __future__ import annotations

from collections.abc import Sequence


def plan(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices into `lengths`, in batches of at most `batch_size`, sorted by length so that little is padding.

    A function of its arguments alone: a chunk is batched the same in every run, on any machine.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
