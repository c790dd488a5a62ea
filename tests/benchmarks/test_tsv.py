from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tsv
from git_caption.tsv.file import TsvFile

ROOT = Path(__file__).resolve().parents[2]


def test_the_two_ways_read_the_same(tmp_path: Path) -> None:
    path = tsv.made(tmp_path / "rows.tsv", 300, "a b c")
    assert tsv.old_scan(path) == tsv.scan(path) == 300
    assert [tsv.OldFile(path)[row] for row in range(300)] == list(TsvFile(path))


def test_one_command_prints_four_figures_with_their_ratios() -> None:
    command = [sys.executable, "-m", "benchmarks.tsv", "--rows", "2000", "--images", "50", "--repeats", "1"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    figures = [re.split(r" {2,}", line)[0] for line in lines if re.search(r"\d +[\d.]+x  ", line)]
    expected = ["index scan of images, MB/s", "index scan of text, MB/s", "open, once indexed, ms", "a random row, µs"]
    assert figures[:4] == expected
    assert lines[-1].startswith("anonymous memory")


@pytest.mark.skipif(not tsv.STATUS.exists(), reason=f"no {tsv.STATUS} to read anonymous memory from")
def test_reading_all_rows_takes_no_memory_of_the_files_size(tmp_path: Path) -> None:
    path = tsv.made(tmp_path / "images.tsv", 4000, "x" * 50_000)
    assert path.stat().st_size > 200e6
    assert tsv.growth_in_a_new_process("ours", path) < 20  # 100 MB are allowed; 1 was seen
