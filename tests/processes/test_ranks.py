from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch.distributed

from git_caption.processes import Ranks, ranks


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """Rank 1 of 2 in a store that outlives rank 0, as that of torchrun's agent does."""
    monkeypatch.setattr(ranks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(ranks, "SILENT_SECONDS", 0.5)
    found = Ranks(1, 2, torch.distributed.HashStore())
    yield found
    found.part()


def test_a_process_that_is_stopped_does_not_wait_for_a_rank_0_that_died(second: Ranks) -> None:
    since, shown = time.monotonic(), []
    assert second.end(75, "stopped by SIGTERM", shown.append) == 75
    assert shown == ["stopped by SIGTERM"]
    assert 0.5 < time.monotonic() - since < 5


def test_a_dead_process_is_noticed_within_a_minute() -> None:
    assert ranks.DEAD_SECONDS + 2 * ranks.BEAT_SECONDS + ranks.POLL_SECONDS < 60
