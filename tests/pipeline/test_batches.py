from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from git_caption.pipeline.batches import plan


def test_prompts_of_like_length_are_put_together() -> None:
    assert plan([5, 1, 5, 2, 1], 2) == [[1, 4], [3, 0], [2]]


def test_nothing_is_no_batch() -> None:
    assert plan([], 4) == []


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 9))
def test_every_index_stands_once_in_full_batches_of_rising_length(lengths: list[int], batch_size: int) -> None:
    batches = plan(lengths, batch_size)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(0 < len(batch) <= batch_size for batch in batches)
