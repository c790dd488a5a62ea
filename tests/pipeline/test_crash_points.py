"""A run that ends at each of its touches of the disk in turn, as by a kill at that very moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from git_caption.pipeline.run import run
from git_caption.samples.sample import Failure

ROWS = 600
TOUCHES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime"}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="ends runs in forked processes"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Numbers:
    inputs: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return ROWS

    def read(self, row: int) -> int | Failure:
        return Failure(str(row), "fails", [[f"{row}", ""]]) if row % 200 == 7 else row


def squares(computed: list[int] | None = None, power: int = 2) -> Any:
    def compute(numbers: list[int]) -> list[list[list[str]]]:
        if computed is not None:
            computed.append(numbers[0] // 256)
        return [[[str(number), str(number**power)]] for number in numbers]

    return compute


def write_squares(out: Path) -> None:
    run(Numbers(), squares(), out, {"power": 2}, num_workers=0)


def ended_at(touch: int, out: Path, write: Callable[[Path], object] = write_squares) -> int:
    """Write in a child that ends before its touch of that number; its exit status: 9 if it came so far, else 0."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = touch
    sync = os.fsync

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(9)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHES and any(str(out.parent) in str(argument) for argument in arguments):
            count()

    def counted_sync(descriptor: int) -> None:
        count()
        sync(descriptor)

    try:
        sys.addaudithook(hook)
        os.fsync = counted_sync
        write(out)
        os._exit(0)
    finally:
        os._exit(1)  # whatever happens, the child is not to go on with the tests


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def crashes(folder: Path, older: bool) -> Iterator[tuple[int, Path]]:
    """Every touch, and the output of a run that ended there."""
    touch = 0
    while True:
        touch += 1
        out = folder / str(touch) / "out.tsv"
        out.parent.mkdir()
        if older:
            run(Numbers(), squares(power=3), out, {"power": 3}, num_workers=0)
        status = ended_at(touch, out)
        if status == 0:
            assert touch > 30
            return
        assert status == 9
        yield touch, out


@pytest.mark.parametrize("older", [False, True])
def test_a_run_ended_at_any_touch_of_the_disk_is_resumed_to_the_same_bytes(tmp_path: Path, older: bool) -> None:
    (tmp_path / "whole").mkdir()
    run(Numbers(), squares(), tmp_path / "whole" / "out.tsv", {"power": 2}, num_workers=0)
    whole = outputs(tmp_path / "whole")
    assert sorted(whole) == ["out.lineidx", "out.lineidx.8b", "out.tsv", "out.tsv.errors.tsv"]
    text = "".join(f"{n}\t{n**3 if n % 200 != 7 else ''}\n" for n in range(ROWS))
    for touch, out in crashes(tmp_path, older):
        found = out.read_bytes() if out.exists() else None
        assert found in ([text.encode(), whole["out.tsv"]] if older else [None, whole["out.tsv"]]), touch
        committed = {int(path.name[:6]) for path in out.parent.glob("out.tsv.parts/??????.tsv")}
        manifest = (out.parent / "out.tsv.parts" / "manifest.json").exists()
        computed: list[int] = []
        run(Numbers(), squares(computed), out, {"power": 2}, num_workers=0)
        assert computed == sorted(set(range(3)) - (committed if manifest else set())), touch
        assert outputs(out.parent) == whole, touch
        assert [path.name for path in out.parent.iterdir() if path.is_dir()] == [], touch
