from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from git_caption.errors import DataError, JobFailed, Stopped, UsageError
from git_caption.pipeline.run import Summary, run
from git_caption.pipeline.workers import read_chunks
from git_caption.samples.sample import Failure
from git_caption.tsv.file import TsvFile


class Letters:
    """Rows that are numbers; those in `bad` fail and give as many placeholder lines as `bad` says."""

    def __init__(self, rows: int, bad: dict[int, int] | None = None, inputs: tuple[Path, ...] = ()) -> None:
        self.rows = rows
        self.bad = bad or {}
        self.inputs = inputs

    def __len__(self) -> int:
        return self.rows

    def read(self, row: int) -> int | Failure:
        if row in self.bad:
            return Failure(f"k{row}", f"in.tsv:{row + 1}: it\tis\nbad", [[f"empty {row}"]] * self.bad[row])
        return row


def twice(numbers: list[int]) -> list[list[list[str]]]:
    """Two lines a row."""
    return [[[f"k{number}", "a"], [f"k{number}", "b"]] for number in numbers]


class Counted:
    """`twice`, keeping the first row of each chunk it was given; raises `error` at chunk `at`."""

    def __init__(self, error: BaseException | None = None, at: int = -1) -> None:
        self.chunks: list[int] = []
        self.error = error
        self.at = at

    def __call__(self, numbers: list[int]) -> list[list[list[str]]]:
        self.chunks.append(numbers[0] // 256)
        if self.error is not None and self.chunks[-1] == self.at:
            raise self.error
        return twice(numbers)


def expected(rows: int, bad: dict[int, int] | None = None) -> list[str]:
    lines: list[str] = []
    for row in range(rows):
        lines += [f"empty {row}"] * bad[row] if bad and row in bad else [f"k{row}\ta", f"k{row}\tb"]
    return lines


def go(
    out: Path,
    source: Letters,
    compute: Callable[[list[int]], Sequence] = twice,
    settings: dict | None = None,
    **options: object,
) -> Summary:
    return run(source, compute, out, settings if settings is not None else {"beams": 3}, num_workers=0, **options)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "out.tsv"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 700])
def test_lines_come_out_in_the_order_of_the_rows(out: Path, rows: int) -> None:
    summary = go(out, Letters(rows))
    assert out.read_text().splitlines() == expected(rows)
    assert (summary.rows, summary.lines, summary.skipped, summary.resumed_chunks) == (rows, 2 * rows, 0, 0)
    assert summary.errors_path is None
    assert str(summary).startswith(f"{out}: {rows} rows, {2 * rows} lines, ")
    assert names(out.parent) == ["out.lineidx", "out.lineidx.8b", "out.tsv"]
    assert TsvFile(out)[2 * rows - 1] == [f"k{rows - 1}", "b"]


def test_no_rows_are_an_empty_output(out: Path) -> None:
    summary = go(out, Letters(0))
    assert (summary.lines, out.read_bytes()) == (0, b"")
    assert names(out.parent) == ["out.lineidx", "out.lineidx.8b", "out.tsv"]


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    from tests.pipeline.program import Numbers

    def same(numbers: list[int]) -> list[list[list[str]]]:
        return [[[str(number)]] for number in numbers]

    for workers in (0, 2):
        run(Numbers(900), same, tmp_path / f"{workers}.tsv", {}, num_workers=workers)
    assert (tmp_path / "0.tsv").read_bytes() == (tmp_path / "2.tsv").read_bytes()
    assert len(TsvFile(tmp_path / "2.tsv")) == 900


def test_failed_rows_keep_their_places_and_are_listed(out: Path) -> None:
    bad = {0: 1, 3: 2, 300: 0, 599: 1}
    summary = go(out, Letters(600, bad))
    assert out.read_text().splitlines() == expected(600, bad)
    assert summary.skipped == 4
    assert summary.errors_path == Path(f"{out}.errors.tsv")
    assert str(summary).endswith(f"4 rows skipped, listed in {out}.errors.tsv")
    assert summary.errors_path.read_text().splitlines() == [
        f"{row + 1}\tk{row}\tin.tsv:{row + 1}: it is bad" for row in (0, 3, 300, 599)
    ]


def test_a_chunk_of_failed_rows_only_is_not_computed(out: Path) -> None:
    compute = Counted()
    go(out, Letters(300, dict.fromkeys(range(256), 1)), compute)
    assert compute.chunks == [1]


def test_rows_that_fail_in_the_model_are_failed_rows(out: Path) -> None:
    def compute(numbers: list[int]) -> list[list[list[str]] | Failure]:
        return [Failure("k5", "not finite", [["k5", ""]]) if n == 5 else [[f"k{n}", "x"]] for n in numbers]

    summary = go(out, Letters(10, {2: 1}), compute)
    assert out.read_text().splitlines()[4:7] == ["k4\tx", "k5\t", "k6\tx"]
    assert summary.skipped == 2
    assert Path(f"{out}.errors.tsv").read_text() == "3\tk2\tin.tsv:3: it is bad\n6\tk5\tnot finite\n"


def test_an_older_list_of_errors_goes_when_no_row_fails(out: Path) -> None:
    go(out, Letters(10, {2: 1}))
    go(out, Letters(10))
    assert names(out.parent) == ["out.lineidx", "out.lineidx.8b", "out.tsv"]


def test_on_error_raise_stops_at_the_first_failed_row(out: Path) -> None:
    compute = Counted()
    with pytest.raises(DataError, match=r"^in\.tsv:301: it\tis\nbad \(row 301, key 'k300'\)$"):
        go(out, Letters(600, {300: 1, 310: 1}), compute, on_error="raise")
    assert compute.chunks == [0]
    assert not out.exists()


def test_on_error_raise_also_sees_what_an_earlier_run_skipped(out: Path) -> None:
    with pytest.raises(JobFailed):
        go(out, Letters(600, {300: 1}), max_errors=0)
    with pytest.raises(DataError, match=r"row 301, key 'k300'"):
        go(out, Letters(600, {300: 1}), on_error="raise")


def test_past_max_errors_the_job_fails_and_goes_on_with_a_higher_bound(out: Path) -> None:
    bad = {1: 1, 300: 1, 520: 1}
    compute = Counted()
    message = (
        r"2 rows could not be processed, 'max_errors' allows 1; the first is row 2, key 'k1': in\.tsv:2: .*; 2 of 3 "
        r"chunks are kept in .*out\.tsv\.parts: run again with a higher 'max_errors' to go on"
    )
    with pytest.raises(JobFailed, match="(?s)" + message):
        go(out, Letters(600, bad), compute, max_errors=1)
    with pytest.raises(JobFailed, match="2 rows could not be processed"):
        go(out, Letters(600, bad), compute, max_errors=1)
    assert compute.chunks == [0, 1]
    assert go(out, Letters(600, bad), compute, max_errors=3).skipped == 3
    assert compute.chunks == [0, 1, 2]
    assert out.read_text().splitlines() == expected(600, bad)
    assert len(Path(f"{out}.errors.tsv").read_text().splitlines()) == 3


def test_a_run_that_failed_goes_on_where_it_was(out: Path) -> None:
    with pytest.raises(RuntimeError, match="bug"):
        go(out, Letters(1000), Counted(RuntimeError("bug"), at=2))
    assert not out.exists()
    compute = Counted()
    assert go(out, Letters(1000), compute).resumed_chunks == 2
    assert compute.chunks == [2, 3]
    assert out.read_text().splitlines() == expected(1000)
    assert names(out.parent) == ["out.lineidx", "out.lineidx.8b", "out.tsv"]


def interrupted(out: Path, settings: dict, inputs: tuple[Path, ...] = ()) -> None:
    with pytest.raises(RuntimeError, match="bug"):
        go(out, Letters(600, inputs=inputs), Counted(RuntimeError("bug"), at=1), settings)


def test_other_settings_are_refused_by_name_and_taken_with_resume_false(out: Path) -> None:
    interrupted(out, {"params": {"beams": 3, "stop": ("a",)}, "sha256": "x"})
    message = (
        r"out\.tsv\.parts holds the parts of an unfinished run with other settings \(params\.beams: 3 then, 5 now\); "
        r"run it again as it was to finish it, or give 'resume': False"
    )
    other = {"params": {"beams": 5, "stop": ("a",)}, "sha256": "x"}
    with pytest.raises(UsageError, match=message):
        go(out, Letters(600), settings=other)
    compute = Counted()
    assert go(out, Letters(600), compute, settings=other, resume=False).resumed_chunks == 0
    assert compute.chunks == [0, 1, 2]


def test_the_same_settings_are_known_again_after_their_trip_through_json(out: Path) -> None:
    settings = {"stop": ("a", "b"), "top_p": None, "temperature": 0.1}
    interrupted(out, settings)
    assert go(out, Letters(600), settings=settings).resumed_chunks == 1


def test_parts_written_before_a_key_was_known_are_gone_on_from(out: Path) -> None:
    interrupted(out, {"beams": 3})
    assert go(out, Letters(600), settings={"beams": 3, "new_key": None}).resumed_chunks == 1


def test_many_differences_are_cut_short(out: Path) -> None:
    interrupted(out, {f"key{n}": n for n in range(9)})
    with pytest.raises(UsageError, match=r"key3: 3 then, None now; and 5 more\)"):
        go(out, Letters(600), settings={})


def test_a_changed_input_is_refused(out: Path, tmp_path: Path) -> None:
    image_tsv = tmp_path / "in.tsv"
    image_tsv.write_text("a")
    interrupted(out, {}, (image_tsv,))
    os.utime(image_tsv, (1, 1))
    with pytest.raises(UsageError, match=r"other settings \(inputs: .*'mtime_ns': 1000000000"):
        go(out, Letters(600, inputs=(image_tsv,)), settings={})


def test_a_complete_output_is_made_anew_and_replaced_at_the_end_only(out: Path) -> None:
    go(out, Letters(300))
    before = out.read_bytes()
    with pytest.raises(RuntimeError, match="bug"):
        go(out, Letters(600), Counted(RuntimeError("bug"), at=1))
    assert out.read_bytes() == before
    compute = Counted()
    go(out, Letters(600), compute)
    assert compute.chunks == [1, 2]
    go(out, Letters(600), compute)
    assert compute.chunks == [1, 2, 0, 1, 2]
    assert out.read_text().splitlines() == expected(600)


def test_parts_without_a_manifest_count_for_nothing(out: Path) -> None:
    interrupted(out, {})
    (out.parent / "out.tsv.parts" / "manifest.json").unlink()
    assert go(out, Letters(600), settings={}).resumed_chunks == 0


def test_a_manifest_that_is_none_is_refused(out: Path) -> None:
    interrupted(out, {})
    manifest = out.parent / "out.tsv.parts" / "manifest.json"
    assert set(json.loads(manifest.read_text())) == {"digest", "settings"}
    manifest.write_text("[]")
    with pytest.raises(UsageError, match=r"manifest\.json is not a manifest of parts; give 'resume': False"):
        go(out, Letters(600), settings={})
    go(out, Letters(600), settings={}, resume=False)


def test_a_worker_that_hangs_ends_the_run_which_can_be_resumed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = out.with_name("once")
    out.parent.mkdir()
    monkeypatch.setattr("git_caption.pipeline.run.read_chunks", partial(read_chunks, hang_seconds=1.5))
    source = Hanging(1000, once)
    with pytest.raises(
        JobFailed, match=r"process died, or hung for 1\.5 s, at or soon after row 697 of .*kept: run th"
    ):
        run(source, twice, out, {}, num_workers=1)
    summary = run(source, twice, out, {}, num_workers=1)
    assert summary.resumed_chunks == 2
    assert out.read_text().splitlines() == expected(1000)


class Hanging(Letters):
    """`Letters` whose row 700 hangs the worker that reads it first."""

    def __init__(self, rows: int, once: Path) -> None:
        super().__init__(rows)
        self.once = once

    def read(self, row: int) -> int | Failure:
        if row == 700 and not self.once.exists():
            self.once.touch()
            time.sleep(1000)
        return super().read(row)


def test_half_written_parts_do_not_count(out: Path) -> None:
    interrupted(out, {})
    parts = out.parent / "out.tsv.parts"
    (parts / "000001.tsv.77-abcd1234.tmp").write_text("half a l")
    (parts / "000001.errors.tsv").write_text("300\tk299\tnot committed\n")
    summary = go(out, Letters(600), settings={})
    assert (summary.resumed_chunks, summary.skipped) == (1, 0)
    assert out.read_text().splitlines() == expected(600)
    assert not parts.exists()


def test_files_of_others_in_the_folder_of_parts_are_left_alone(out: Path) -> None:
    parts = out.parent / "out.tsv.parts"
    parts.mkdir(parents=True)
    (parts / "notes.txt").write_text("mine")
    go(out, Letters(300))
    assert names(parts) == ["notes.txt"]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("a\n")
    link = tmp_path / "link.tsv"
    link.symlink_to(path)
    with pytest.raises(UsageError, match=r"link\.tsv is both input and output; expected another name"):
        go(link, Letters(1, inputs=(path,)))
    assert path.read_text() == "a\n"


def test_an_output_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, expected the name of the file to write"):
        go(tmp_path, Letters(1))


def test_an_output_whose_folder_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobFailed, match=r"cannot write .*file/out\.tsv\.parts: Not a directory; .* is gone"):
        go(tmp_path / "file" / "out.tsv", Letters(1))


def test_lines_that_a_tsv_cannot_hold_are_refused(out: Path) -> None:
    with pytest.raises(DataError, match=r"out\.tsv, chunk 0: column 2 is 'a\\nb'"):
        go(out, Letters(1), lambda numbers: [[["k", "a\nb"]]])


def test_compute_must_answer_for_every_row(out: Path) -> None:
    with pytest.raises(AssertionError, match="compute gave 1 results for 2 rows"):
        go(out, Letters(2), lambda numbers: [[["k"]]])


class Signalling(Letters):
    """A signal comes while row 300 is read."""

    def read(self, row: int) -> int | Failure:
        if row == 300:
            signal.raise_signal(signal.SIGTERM)
            self.read_on = True
        return super().read(row)


def test_a_signal_waits_for_code_that_may_hold_a_lock(out: Path) -> None:
    source = Signalling(600)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM; 1 of 3 chunks are kept"):
        go(out, source)
    assert source.read_on


def test_a_signal_does_not_wait_for_a_chunk_to_be_computed(out: Path) -> None:
    def compute(numbers: list[int]) -> list[list[list[str]]]:
        if numbers[0] == 256:
            signal.raise_signal(signal.SIGINT)
            pytest.fail("computed on")
        return twice(numbers)

    with pytest.raises(Stopped, match=r"stopped by SIGINT; 1 of 3 chunks are kept"):
        go(out, Letters(600), compute)


def test_signal_handlers_are_put_back(out: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    go(out, Letters(1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_run_in_another_thread_needs_no_signals(out: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(go, out, Letters(300)).result().rows == 300


def test_importing_the_pipeline_brings_in_no_torch() -> None:
    code = "import git_caption.pipeline.run, git_caption.samples.image_tsv, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
