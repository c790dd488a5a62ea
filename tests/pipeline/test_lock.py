from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from git_caption.errors import JobFailed
from git_caption.pipeline.lock import locked

OUT = Path("out.tsv")


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(path, OUT),
        pytest.raises(JobFailed, match=rf"^out\.tsv: another run is .* \(process {os.getpid()} on \S+\); wait"),
        locked(path, OUT),
    ):
        raise AssertionError("locked twice")
    assert not path.exists()


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        with locked(tmp_path / "lock", OUT):
            assert (tmp_path / "lock").exists()


def test_a_file_left_by_a_dead_run_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1, "host": "elsewhere", "more": "than the next one writes"}')
    with locked(tmp_path / "lock", OUT):
        assert f'{{"pid": {os.getpid()}, ' in (tmp_path / "lock").read_text()


def test_a_holder_that_has_not_written_its_name_yet_is_described(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JobFailed, match=r"\(just started\)"), locked(path, OUT):
            raise AssertionError("locked twice")


def test_a_lock_removed_while_we_waited_for_it_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    real = fcntl.flock
    calls = []

    def flock(descriptor: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            path.unlink()  # its holder ended just now
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, OUT):
        assert path.exists()
    assert len(calls) == 2


def test_where_there_are_no_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock", OUT):
        pass
    assert caplog.messages == ["out.tsv: this file system has no locks; do not start a second run with this output"]


def test_other_refusals_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "lock", OUT):
        raise AssertionError("locked")
