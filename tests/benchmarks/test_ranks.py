from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_one_command_prints_what_ranks_cost() -> None:
    flags = ["--ranks", "1", "2", "--chunks", "3", "--seconds", "0.2"]
    command = [sys.executable, "-m", "benchmarks.ranks", *flags]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "3 chunks of 256 rows for each rank, 0.2 s a chunk"
    for size, line in zip((1, 2), lines[2:4], strict=True):
        ranks, ideal, taken, efficiency, over, otherwise, _ = line.split()[:7]
        assert (int(ranks), float(ideal)) == (size, 0.6)
        assert float(taken) > 0.6 and abs(float(efficiency[:-1]) - 100 * 0.6 / float(taken)) < 1
        assert abs(0.6 + 3 * float(over) / 1000 + float(otherwise) - float(taken)) < 0.02
    assert lines[5].split() == ["ranks", "claims", "a", "second", "µs", "a", "claim"]
    assert lines[6].split()[0] == "2"
