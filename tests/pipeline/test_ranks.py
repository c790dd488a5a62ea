"""Several processes that write one output: the bytes of one process, whatever befalls some of them."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.pipeline.together import Work, ended, started, together

CHUNKS = 12
ROWS = CHUNKS * 256 - 100


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.startswith("out")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, bytes]]:
    """What one process writes: features, or a TSV."""
    found = {}
    for features in (True, False):
        folder = tmp_path_factory.mktemp("alone")
        Work(folder / "out.tsv", ROWS, features=features).do()
        found[features] = outputs(folder)
    assert sorted(found[False]) == ["out.lineidx", "out.lineidx.8b", "out.tsv", "out.tsv.errors.tsv"]
    return found


@pytest.mark.parametrize(("size", "features"), [(2, False), (8, False), (3, True)])
def test_several_processes_write_the_bytes_of_one(tmp_path: Path, alone, size, features) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, dict.fromkeys(range(size), 0.05), features=features)
    found = together(work, size)
    assert (found.codes, found.err) == ([0] * size, "")
    assert outputs(tmp_path) == alone[features]
    assert sorted(chunk for _, chunk in work.begun()) == list(range(CHUNKS))
    assert {rank for rank, _ in work.begun()} == set(range(size))
    assert len(found.out.splitlines()) == 1
    lines = ROWS - 29 if features else ROWS  # a cache counts its rows with features
    assert f"out.tsv: {ROWS} rows, {lines} lines, " in found.out and "29 rows skipped, listed in" in found.out
    assert f"; {sum(range(10, 10 + size))} batches halved" in found.out
    assert " rows/s (rank 0 " in found.out and f", rank {size - 1} " in found.out


def test_processes_that_met_do_one_job_after_the_other(tmp_path: Path, alone) -> None:
    found = together(Work(tmp_path / "out.tsv", ROWS, runs=2), 2)
    assert (found.codes, found.err) == ([0, 0], "")
    assert (tmp_path / "1out.tsv").read_bytes() == (tmp_path / "out.tsv").read_bytes() == alone[False]["out.tsv"]


def test_what_a_process_had_claimed_when_it_died_is_computed_by_the_others(tmp_path: Path, alone) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, {0: 0.05, 1: 0.05}, {2: "dies"}, workers=1, dead_seconds=2.0)
    found = together(work, 3)
    assert (found.codes, found.err) == ([0, 0, -signal.SIGKILL], "")
    assert outputs(tmp_path) == alone[False]
    again = {chunk for rank, chunk in work.begun() if rank == 2}
    assert len(again) == 1
    assert {chunk for rank, chunk in work.begun() if rank != 2} == set(range(CHUNKS))


def test_where_rank_0_died_all_end_and_any_number_of_processes_goes_on(tmp_path: Path, alone) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, {0: 0.4, 1: 0.1})
    ranks = started(work, 2)
    since = time.monotonic()
    while len(work.begun()) < 5:
        assert time.monotonic() < since + 30
        time.sleep(0.01)
    ranks[0].kill()
    found = ended(work, ranks, since)
    assert found.codes == [-signal.SIGKILL, 1]
    assert found.err.startswith("error: rank 1 of 2 lost the others") and found.err.count("\n") == 1
    kept = {int(path.name[:6]) for path in tmp_path.glob("out.tsv.parts/??????.tsv")}
    assert 0 < len(kept) < CHUNKS
    work.log.unlink()
    again = Work(tmp_path / "out.tsv", ROWS)
    found = together(again, 3)
    assert (found.codes, found.err) == ([0, 0, 0], "")
    assert f"{len(kept)} of {CHUNKS} chunks from an earlier run" in found.out
    assert sorted(chunk for _, chunk in again.begun()) == sorted(set(range(CHUNKS)) - kept)
    assert outputs(tmp_path) == alone[False]


def test_a_slow_process_is_waited_for_one_chunk_at_most(tmp_path: Path, alone) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, {0: 0.15, 1: 1.5}, workers=1)
    found = together(work, 2)
    assert found.codes == [0, 0]
    assert outputs(tmp_path) == alone[False]
    assert sorted(chunk for _, chunk in work.begun()) == list(range(CHUNKS))
    assert [rank for rank, _ in work.begun()][-2:] != [1, 1], "the slow one computed what it had read ahead"


@pytest.mark.parametrize(
    ("fault", "options", "code", "message"),
    [
        ("bug", {}, 1, "error: internal error: ValueError: a bug; run again with --debug for the traceback"),
        ("stops", {}, 75, "error: stopped by SIGTERM; "),
        ("", {"max_errors": 20}, 1, "error: 2[1-4] rows could not be processed, 'max_errors' allows 20; the first is "),
        ("", {"on_error": "raise"}, 1, r"error: numbers:\d+: ends in 99 \(row \d*00, key 'key\d*99'\)"),
    ],
)
def test_a_failure_of_one_ends_all_with_one_line(tmp_path: Path, fault, options, code, message) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, {0: 0.1, 1: 0.1, 2: 60.0}, {1: fault}, options=options)
    found = together(work, 3)
    assert found.codes == [code] * 3, found.err
    assert re.match(message, found.err) and found.err.count("\n") == 1, found.err
    assert found.seconds < 30
    assert not (tmp_path / "out.tsv").exists()


def test_a_stopped_run_of_several_is_finished_by_one(tmp_path: Path, alone) -> None:
    work = Work(tmp_path / "out.tsv", ROWS, {0: 0.1, 1: 0.1})
    ranks = started(work, 2)
    while len(work.begun()) < 5:
        time.sleep(0.01)
    for process in ranks:
        process.terminate()
    found = ended(work, ranks, time.monotonic())
    assert found.codes == [75, 75]
    assert found.err.startswith("error: stopped by SIGTERM; ") and found.err.count("\n") == 1
    Work(tmp_path / "out.tsv", ROWS).do()
    assert outputs(tmp_path) == alone[False]
    assert len(work.begun()) <= CHUNKS + 2


def test_processes_with_other_settings_do_not_work_together(tmp_path: Path) -> None:
    found = together(Work(tmp_path / "out.tsv", ROWS, {0: 0.2}, settings={1: 3}), 2)
    assert found.codes == [2, 2]
    assert "error: rank 1 would compute with other settings than rank 0 (power: 2 then, 3 now" in found.err


def test_a_run_that_is_going_on_is_left_alone_by_several(tmp_path: Path, alone) -> None:
    first = Work(tmp_path / "out.tsv", ROWS, {0: 0.3, 1: 0.3})
    ranks = started(first, 2)
    while len(first.begun()) < 3:
        time.sleep(0.01)
    found = together(Work(tmp_path / "out.tsv", ROWS), 2)
    assert found.codes == [1, 1]
    assert "another run is writing this output" in found.err and found.err.count("\n") == 1
    assert ended(first, ranks, time.monotonic()).codes == [0, 0]
    assert outputs(tmp_path) == alone[False]
