"""Rows of a TSV file by number: the way of the tools before this one against ours.

The old way: text lines, their offsets in `name.lineidx`, read into a list; seek, readline. Both ways read the same
files, from the page cache, on one core. Run from the repository: `python3 -m benchmarks.tsv`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from git_caption.tsv import index
from git_caption.tsv.file import TsvFile

ROOT = Path(__file__).resolve().parents[1]
ROWS = 1_000_000
IMAGES = 10_000
IMAGE_CHARACTERS = 40_000  # a picture of 30 kB in base64
RANDOM_ROWS = 20_000
STATUS = Path("/proc/self/status")


class OldFile:
    """Rows by number as the old tools read them."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, encoding="utf-8")  # noqa: SIM115 - open as long as the object, as theirs
        with open(path.with_suffix(".lineidx"), encoding="utf-8") as file:
            self.offsets = [int(line) for line in file]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, row: int) -> list[str]:
        self.file.seek(self.offsets[row])
        return self.file.readline().strip().split("\t")


def old_scan(path: Path) -> int:
    """Number of lines, found by reading them one by one and asking where each began."""
    size, position, count = path.stat().st_size, 0, 0
    with open(path, encoding="utf-8") as file:
        while position < size:
            count += 1
            file.readline()
            position = file.tell()
    return count


def scan(path: Path) -> int:
    """Number of lines, found by our scan of bytes."""
    return sum(map(len, index.scan(path)))


def read(file: TsvFile | OldFile, rows: list[int]) -> None:
    """Read the rows of these numbers."""
    for row in rows:
        file[row]


def made(path: Path, rows: int, value: str) -> Path:
    """A file of rows with both indexes."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"key{number:07d}\t{value}\n" for number in range(rows))
    index.build(path)
    return path


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    call()
    return median(_timed(call) for _ in range(repeats))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def anonymous_megabytes() -> float:
    """Memory of this process that no file stands behind."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


def growth(opened: Callable[[Path], TsvFile | OldFile], path: Path) -> float:
    """Most megabytes above the start while a file is opened and all its rows are read in order."""
    started = most = anonymous_megabytes()
    file = opened(path)
    for row in range(len(file)):
        file[row]
        if row % 10_000 == 0:
            most = max(most, anonymous_megabytes())
    return most - started


def growth_in_a_new_process(way: str, path: Path) -> float:
    """`growth` where nothing was read before."""
    command = [sys.executable, "-m", "benchmarks.tsv", "--growth", way, str(path)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def figures(folder: Path, rows: int, images: int, repeats: int) -> Iterator[str]:
    """The lines of the report."""
    short = made(folder / "short.tsv", rows, '[{"caption":"a dog on a bench"}]')
    long = made(folder / "images.tsv", images, "x" * IMAGE_CHARACTERS)
    yield f"{rows} rows of text, {_megabytes(short):.0f} MB; {images} rows of images, {_megabytes(long):.0f} MB"
    yield f"medians of {repeats}\n"
    yield f"{'':34}{'old':>10}{'ours':>10}{'ratio':>8}   aim"
    for name, path in (("images", long), ("text", short)):
        old, ours = (_megabytes(path) / seconds(partial(way, path), repeats) for way in (old_scan, scan))
        yield _line(f"index scan of {name}, MB/s", old, ours, ours / old, "500 or more", ours >= 500)
    old, ours = (1e3 * seconds(partial(way, short), repeats) for way in (OldFile, TsvFile))
    yield _line("open, once indexed, ms", old, ours, old / ours, "under 50", ours < 50)
    chosen = np.random.default_rng(0).integers(0, rows, RANDOM_ROWS).tolist()
    old, ours = (
        1e6 * seconds(partial(read, file, chosen), repeats) / RANDOM_ROWS for file in (OldFile(short), TsvFile(short))
    )
    yield _line("a random row, µs", old, ours, old / ours, "under 50", ours < 50)
    if STATUS.exists():
        old, ours = (median(growth_in_a_new_process(way, short) for _ in range(repeats)) for way in ("old", "ours"))
        yield _line("anonymous memory, all rows, MB", old, ours, old / max(ours, 0.1), "under 100", ours < 100)
    else:
        yield f"anonymous memory: not measured, for there is no {STATUS} here"


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def _line(name: str, old: float, ours: float, ratio: float, aim: str, met: bool) -> str:
    return f"{name:34}{old:10.1f}{ours:10.1f}{ratio:7.1f}x   {aim}{'' if met else ': MISSED'}"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the file of texts")
    parser.add_argument("--images", type=int, default=IMAGES, help="rows of the file of images")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--growth", nargs=2, metavar=("WAY", "PATH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.growth:
        way, path = given.growth
        print(growth({"old": OldFile, "ours": TsvFile}[way], Path(path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in figures(Path(folder), given.rows, given.images, given.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
