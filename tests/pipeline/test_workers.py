from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from git_caption.errors import DataError, JobFailed
from git_caption.pipeline.workers import read_chunks


class Rows:
    """What a worker can tell about itself."""

    inputs: tuple[Path, ...] = (Path("a.tsv"), Path("b.tsv"))

    def __init__(self, act: str = "") -> None:
        self.act = act

    def __len__(self) -> int:
        return 100

    def read(self, row: int) -> tuple[int, int, bool]:
        if self.act == "mismatch" and row == 17:
            raise DataError("a.tsv:18: keys differ")
        if self.act == "bug" and row == 17:
            raise ZeroDivisionError("in a worker")
        if self.act == "die" and row == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "hang" and row == 17:
            time.sleep(1000)
        return row, os.getpid(), "torch" in sys.modules

    def __setstate__(self, state: dict[str, str]) -> None:
        if state["act"] == "changed":
            raise DataError("a.tsv: the file changed")
        self.__dict__.update(state)


def ten(number: int) -> range:
    return range(number * 10, number * 10 + 10)


def rows_read(source: Rows, workers: int, chunks: Iterator[int] | range = range(10), **options: float) -> list:
    return list(read_chunks(source, chunks, ten, workers, **options))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_chunks_and_rows_come_in_order(workers: int) -> None:
    seen = rows_read(Rows(), workers, iter([4, 0, 7, 2, 9]))
    assert [number for number, _ in seen] == [4, 0, 7, 2, 9]
    assert [[row for row, _, _ in rows] for _, rows in seen] == [list(ten(number)) for number in (4, 0, 7, 2, 9)]
    here = {pid == os.getpid() for _, rows in seen for _, pid, _ in rows}
    assert here == {workers == 0}


def test_workers_load_no_torch() -> None:
    import torch  # noqa: F401 - the main process has it

    seen = rows_read(Rows(), 1, range(2))
    assert not any(loaded for _, rows in seen for _, _, loaded in rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_at_most_two_chunks_are_read_ahead(workers: int) -> None:
    taken: list[int] = []

    def chunks() -> Iterator[int]:
        for number in range(8):
            taken.append(number)
            yield number

    reader = read_chunks(Rows(), chunks(), ten, workers)
    for expected in range(3):
        assert next(reader)[0] == expected
        assert len(taken) == expected + (3 if workers else 1)
    reader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_source_raises_arrives(workers: int) -> None:
    with pytest.raises(DataError, match=r"a\.tsv:18: keys differ"):
        rows_read(Rows("mismatch"), workers)
    with pytest.raises(ZeroDivisionError, match="in a worker"):
        rows_read(Rows("bug"), workers)


def test_a_source_that_cannot_be_opened_in_a_worker_says_why() -> None:
    with pytest.raises(DataError, match=r"a\.tsv: the file changed"):
        rows_read(Rows("changed"), 1)


def test_a_worker_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(JobFailed, match=r"died, or hung for 2 s, at or soon after row \d+ of a\.tsv, b\.tsv"):
        rows_read(Rows("hang"), 1, hang_seconds=2)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_a_worker_that_dies_is_told_with_the_row_also_when_it_was_found_dead_later(pause: float) -> None:
    reader = read_chunks(Rows("die"), range(10), ten, 1)
    assert [row for row, _, _ in next(reader)[1]] == list(range(10))
    time.sleep(pause)
    with pytest.raises(JobFailed, match=r"process died, or hung for 300 s, at or soon after row 11 of a\.tsv, b\.tsv"):
        next(reader)


def test_closing_early_ends_workers_at_once() -> None:
    before = set(multiprocessing.active_children())
    reader = read_chunks(Rows("hang"), range(10), ten, 2)
    assert next(reader)[0] == 0
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 20
    assert not set(multiprocessing.active_children()) - before


def test_sources_here_can_be_sent_to_workers() -> None:
    assert pickle.loads(pickle.dumps(Rows())).act == ""
