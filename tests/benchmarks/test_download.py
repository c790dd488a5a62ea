from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import download

ROOT = Path(__file__).resolve().parents[2]


def test_the_picture_is_a_jpeg_of_some_30_kb() -> None:
    assert 25_000 < len(download.picture()) < 40_000


def test_one_command_prints_rates_and_memory() -> None:
    command = [sys.executable, "-m", "benchmarks.download", "--ways", "ours", "--rows", "50", "--repeats", "1"]
    command += ["--delays", "5", "--memory", "300"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert float(lines[3].removeprefix("delay of 5 ms")) > 0
    assert lines[-1].endswith("1.00x")
