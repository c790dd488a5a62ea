from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("program.py")
ROWS = 24 * 256 - 100
DELAY = "0.03"


def started(
    folder: Path, *, workers: int = 0, delay: str = DELAY, fault: str = "", log: Path | None = None
) -> subprocess.Popen:
    arguments = [folder / "out.tsv", ROWS, workers, delay, log or folder / "log", *([fault] if fault else [])]
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def committed(folder: Path) -> set[int]:
    return {int(path.name[:6]) for path in folder.glob("out.tsv.parts/??????.tsv")}


def computed(folder: Path) -> list[int]:
    log = folder / "log"
    return [int(line) // 256 for line in log.read_text().split()] if log.exists() else []


def wait_for_chunks(folder: Path, process: subprocess.Popen, count: int = 1) -> None:
    end = time.monotonic() + 60
    while len(committed(folder)) < count and process.poll() is None:
        assert time.monotonic() < end, "no chunk was committed in time"
        time.sleep(0.005)


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("out")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finished(started(folder, delay="0"))
    assert code == 0, err
    assert "6044 rows, 6044 lines" in out
    assert "60 rows skipped, listed in" in out
    expected = [f"key{n}\t{n * n if n % 100 != 99 else ''}" for n in range(ROWS)]
    assert (folder / "out.tsv").read_text().splitlines() == expected
    assert sorted(outputs(folder)) == ["out.lineidx", "out.lineidx.8b", "out.tsv", "out.tsv.errors.tsv"]
    return outputs(folder)


def killed_and_resumed(folder: Path, undisturbed: dict[str, bytes], moment: float, workers: int) -> bool:
    """Whether the kill met a run with chunks committed and no output yet."""
    process = started(folder, workers=workers)
    wait_for_chunks(folder, process)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = committed(folder)
    met = bool(before) and not (folder / "out.tsv").exists()
    (folder / "log").unlink()
    code, out, err = finished(started(folder, workers=workers, delay="0"))
    assert code == 0, err
    if met:
        assert f"{len(before)} of 24 chunks from an earlier run" in out
        again = computed(folder)
        assert sorted(again) == sorted(set(range(24)) - before)
    assert outputs(folder) == undisturbed
    return met


@pytest.mark.runs(60)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], runs: int
) -> None:
    source = random.Random(60)
    met = 0
    for number in range(runs):
        folder = tmp_path / str(number)
        folder.mkdir()
        met += killed_and_resumed(folder, undisturbed, source.uniform(0, 0.6), workers=2 * (number % 2))
    assert met >= 0.8 * runs, f"{met} of {runs} kills met a run with chunks committed and no output"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT"), (signal.SIGUSR1, "SIGUSR1")]
)
def test_a_signal_to_the_whole_group_stops_with_the_parts_kept(
    tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals, name: str
) -> None:
    process = started(tmp_path, workers=2)
    wait_for_chunks(tmp_path, process, 3)
    os.killpg(process.pid, number)
    code, _, err = finished(process)
    before = committed(tmp_path)
    assert code == 75
    assert err == (
        f"error: stopped by {name}; {len(before)} of 24 chunks are kept in {tmp_path}/out.tsv.parts: run the same "
        "command again to go on\n"
    )
    assert 3 <= len(before) < 24
    assert not (tmp_path / "out.tsv").exists()
    code, out, _ = finished(started(tmp_path, delay="0"))
    assert code == 0
    assert f"{len(before)} of 24 chunks from an earlier run" in out
    assert outputs(tmp_path) == undisturbed


def test_workers_end_with_a_main_process_that_is_killed_alone(tmp_path: Path) -> None:
    process = started(tmp_path, workers=2)
    wait_for_chunks(tmp_path, process)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < end, "processes of the run are left"
        time.sleep(0.05)
    process.communicate()


def test_a_worker_that_dies_ends_the_run_which_can_be_resumed(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    code, _, err = finished(started(tmp_path, workers=1, delay="0", fault="die"))
    assert code == 1
    assert "a decoding process died, or hung for 300 s, at or soon after row" in err
    assert "run the same command again" in err
    assert "Traceback" not in err
    before = committed(tmp_path)
    code, out, _ = finished(started(tmp_path, workers=1, delay="0", fault="die"))
    assert code == 0
    assert outputs(tmp_path) == undisturbed
    assert len(computed(tmp_path)) == 24
    assert (f"{len(before)} of 24 chunks from an earlier run" in out) == bool(before)


def test_a_second_run_with_the_same_output_is_refused_and_the_first_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    first = started(tmp_path)
    wait_for_chunks(tmp_path, first)
    code, _, err = finished(started(tmp_path))
    assert code == 1
    assert f"out.tsv: another run is writing this output (process {first.pid} on " in err
    code, _, err = finished(first)
    assert code == 0, err
    assert outputs(tmp_path) == undisturbed


def test_a_lock_dies_with_its_run(tmp_path: Path) -> None:
    first = started(tmp_path)
    wait_for_chunks(tmp_path, first)
    first.kill()
    first.communicate()
    assert (tmp_path / "out.tsv.parts" / "lock").exists()
    code, _, err = finished(started(tmp_path, delay="0"))
    assert code == 0, err


def test_an_output_folder_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    process = started(folder, log=tmp_path / "log")
    wait_for_chunks(folder, process)
    folder.rename(tmp_path / "elsewhere")
    code, _, err = finished(process)
    assert code == 1
    assert f"{folder}/out.tsv.parts is gone: run the same command again once that is put right" in err
    assert "No such file or directory" in err


@pytest.mark.parametrize("size", ["80k", "420k"])  # too small for all parts; for the output beside them
def test_a_full_disk_ends_the_run_which_can_be_resumed(
    tmp_path: Path, undisturbed: dict[str, bytes], size: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        code, _, err = finished(started(disk, delay="0", log=tmp_path / "log"))
        assert code == 1
        assert "No space left on device" in err
        assert f"of 24 chunks are kept in {disk}/out.tsv.parts: run the same command again" in err
        assert not (disk / "out.tsv").exists()
        before = committed(disk)
        assert (len(before) == 24) == (size == "420k")
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        code, out, err = finished(started(disk, delay="0", log=tmp_path / "log"))
        assert code == 0, err
        assert f"{len(before)} of 24 chunks from an earlier run" in out
        assert outputs(disk) == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=True)
