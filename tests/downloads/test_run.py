"""Whole runs: stopped, killed, tried again, shared out; what they leave."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from git_caption.downloads.main import main
from git_caption.samples.open_data import open_data
from tests.downloads.lists import QUICK, UNDECODED, causes_of, run, status_of, tree, write_list
from tests.downloads.server import Server
from tests.pictures import contents

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 8


def started(path: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "download.py"), "--list", str(path), *QUICK, *UNDECODED]
    return subprocess.Popen(
        [*command, "--in_flight", str(IN_FLIGHT), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def total(server: Server) -> int:
    return server.asked.total()


def durable(folder: Path) -> set[str]:
    """The addresses with a complete status row."""
    logs = [*folder.glob("list.download/*/status.jsonl"), *folder.glob("list.status.jsonl")]
    lines = [line for log in logs for line in log.read_bytes().splitlines(keepends=True)]
    return {json.loads(line)["url"] for line in lines if line.endswith(b"\n")}


@pytest.mark.runs(30)
@pytest.mark.parametrize("kind", ["files", "tsv"])
def test_a_killed_run_goes_on_without_asking_again(server: Server, tmp_path: Path, runs: int, kind: str) -> None:
    paths = [f"late/10/{n}" if n % 4 else f"status/404?{n}" for n in range(60 * runs)]
    urls = [server.url(path) for path in [*paths, *paths[::7]]]  # some of them twice
    (tmp_path / "whole").mkdir()
    whole = run(write_list(tmp_path / "whole", urls), "--format", kind, *UNDECODED)
    server.asked.clear()
    path, folder, chance = write_list(tmp_path, urls), tmp_path / "list", random.Random(1)
    known: dict[str, int] = {}  # how often an address had been asked for when its row was on the disk
    for _ in range(runs):
        kill_after = total(server) + chance.randrange(1, 60)
        process = started(path, "--format", kind)
        while total(server) < kill_after and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() / 100)
        process.kill()
        process.communicate()
        time.sleep(0.05)  # what it had asked is answered
        known = {url: server.asked[url.removeprefix(f"{server.root}/")] for url in durable(folder)} | known
    run(path, "--format", kind, *UNDECODED)
    assert [url for url, times in known.items() if server.asked[url.removeprefix(f"{server.root}/")] > times] == []
    assert total(server) - len(paths) <= runs * IN_FLIGHT
    assert tree(folder) == tree(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_with_what_has_come_saved(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    path = write_list(tmp_path, [server.url(f"late/20/{n}") for n in range(200)])
    process = started(path)
    while total(server) < 40:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert said == f"error: stopped by {number.name} with what had come saved: the same command goes on\n"
    assert total(server) - len(durable(tmp_path / "list")) <= IN_FLIGHT
    run(path, *UNDECODED)
    assert causes_of(tmp_path / "list") == ["ok"] * 200
    assert total(server) <= 200 + IN_FLIGHT


def test_decoding_processes_end_with_a_killed_run(server: Server, tmp_path: Path) -> None:
    path = write_list(tmp_path, [server.url(f"late/50/{n}") for n in range(400)])
    process = started(path, "--decode", "True", "--in_flight", "2")
    while total(server) < 4:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("no /proc to find child processes in")
    workers = [int(pid) for pid in children.read_text().split()]
    assert workers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in workers if _alive(pid)] == []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_run_on_the_same_output_is_refused(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_list(tmp_path, [server.url(f"late/100/{n}") for n in range(100)])
    process = started(path)
    while not total(server):
        time.sleep(0.01)
    assert main(["--list", str(path), *QUICK, *UNDECODED]) == 1
    assert "another run is writing here" in capsys.readouterr().err
    process.kill()
    process.communicate()


def test_a_complete_run_is_not_done_again(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_list(tmp_path, [server.url("ok/1"), server.url("status/404")])
    before = tree(run(path, *UNDECODED))
    assert tree(run(path, *UNDECODED)) == before
    assert total(server) == 2
    assert "complete already; --retry failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("retry", "asked"),
    [
        ("failed", {"first/404", "first/403", "status/410"}),
        ("http_404", {"first/404"}),
        ("http_403,dns", {"first/403"}),
    ],
)
@pytest.mark.parametrize("kind", ["files", "tsv", "webdataset"])
def test_what_failed_is_tried_again_as_told(
    server: Server, tmp_path: Path, kind: str, retry: str, asked: set[str]
) -> None:
    paths = ["ok/10", "first/404", "ok/20", "first/403", "status/410", "first/404"]
    path = write_list(tmp_path, [server.url(name) for name in paths])
    flags = ("--format", kind, "--rows_per_tar", "2", *UNDECODED)
    run(path, *flags)
    server.asked = server.asked - server.asked  # the times of each are kept: the second try of `first` is answered
    server.asked.update({"first/404": 1, "first/403": 1})
    folder = run(path, *flags, "--retry", retry)
    expected = ["ok" if name in asked and name.startswith("first") else None for name in paths]
    earlier = ["ok", "http_404", "ok", "http_403", "http_410", "http_404"]
    assert causes_of(folder) == [new or old for new, old in zip(expected, earlier, strict=True)]
    assert {name for name, times in server.asked.items() if times - name.startswith("first")} == asked
    assert _grey(folder, kind) == [
        (f"{n:08d}", level)
        for n, (cause, level) in enumerate(zip(causes_of(folder), (10, 100, 20, 100, 0, 100), strict=True))
        if cause == "ok"
    ]


def _grey(folder: Path, kind: str) -> list[tuple[str, int]]:
    """Key and grey level of the images there."""
    where = {
        "files": folder / "list.captions.jsonl",
        "tsv": folder / "list.img.tsv",
        "webdataset": folder / "list",
    }[kind]
    data = open_data(where)
    keys = [data.texts(row).captions[0].removeprefix("caption ") for row in range(len(data))]
    return sorted((f"{int(key):08d}", level) for key, (_, _, level) in zip(keys, contents(data), strict=True))


def test_nothing_to_retry_is_told(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_list(tmp_path, [server.url("ok/1")])
    assert main(["--list", str(path), *QUICK, "--retry", "failed"]) == 2
    assert "no complete run to try again from" in capsys.readouterr().err


def test_a_run_goes_on_as_it_was_begun_only(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_list(tmp_path, [server.url("ok/1")])
    run(path, *UNDECODED)
    assert main(["--list", str(path), *QUICK, "--resize", "8"]) == 2
    said = capsys.readouterr().err
    assert "decode False (now True), resize None (now 8)" in said
    write_list(tmp_path, [server.url("ok/2")])
    assert main(["--list", str(path), *QUICK, *UNDECODED]) == 2
    assert "addresses" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["files", "tsv", "webdataset"])
def test_shards_together_are_the_same_as_one_run(server: Server, tmp_path: Path, kind: str) -> None:
    urls = [server.url(f"ok/{n % 30}" if n % 5 else f"status/404?{n % 20}") for n in range(50)]
    flags = ("--format", kind, "--rows_per_tar", "8", *UNDECODED)
    (tmp_path / "one").mkdir()
    one = run(write_list(tmp_path / "one", urls), *flags)
    alone = total(server)
    path = write_list(tmp_path, urls)
    threads = 3
    for index in range(threads):
        assert not (tmp_path / "list" / "list.status.jsonl").exists()
        run(path, *flags, "--shard", f"{index}/{threads}")
    shared, whole = tree(tmp_path / "list"), tree(one)
    for found in (shared, whole):
        summary = json.loads(found.pop("list.status.json"))
        assert summary["causes"] == {"http_404": 10, "ok": 40}
    assert shared == whole
    assert total(server) == 2 * alone  # an address listed twice is in one shard


def test_the_task_of_a_slurm_array_takes_its_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_list(tmp_path, [server.url(f"ok/{n}") for n in range(20)])
    for task in ("5", "6"):
        for name, value in (("ID", task), ("MIN", "5"), ("COUNT", "2")):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
        run(path, *UNDECODED)
        assert (0 < total(server) < 20) == (task == "5")
    assert causes_of(tmp_path / "list") == ["ok"] * 20


def test_cc3m_as_the_tools_before_laid_it_out(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f'"a {n}\t{server.url(f"ok/{10 * n}")}\n' for n in range(4)]  # an unpaired quotation mark is no quotation
    lines[2] = f"a 2\t{server.url('status/404')}\n"
    (tmp_path / "Train_GCC-training.tsv").write_text("".join(lines))
    (tmp_path / "Validation_GCC-1.1.0-Validation.tsv").write_text(f"b\t{server.url('ok/200')}\n")
    assert main(["--data_root", str(tmp_path), *QUICK, *UNDECODED]) == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jpg")) == [
        "train/00000000.jpg", "train/00000001.jpg", "train/00000003.jpg", "val/00000000.jpg"
    ]  # fmt: skip
    assert [row[0::2] for row in contents(open_data(tmp_path, split="train"))] == [
        ("00000000", 0), ("00000001", 10), ("00000003", 30)
    ]  # fmt: skip
    assert len(open_data(tmp_path, split="validation")) == 1
    said = capsys.readouterr().out
    assert "ok                       3    75.0 %  about 70 %" in said
    assert "github.com/rom1504/img2dataset/issues/391" in said


def test_cc3m_as_tsvs_to_train_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Train_GCC-training.tsv").write_text(f"a\t{server.url('ok/50')}\nb\t{server.url('ok/60')}\n")
    assert main(["--data_root", str(tmp_path), "--format", "tsv", *QUICK, *UNDECODED]) == 0
    assert contents(open_data(tmp_path / "tsv")) == [("00000000", ("a",), 50), ("00000001", ("b",), 60)]
    assert {path.name for path in (tmp_path / "tsv").iterdir()} == {
        "train.img.tsv", "train.img.lineidx", "train.img.lineidx.8b", "train.caption.tsv", "train.caption.lineidx",
        "train.caption.lineidx.8b", "train.status.jsonl", "train.status.json",
    }  # fmt: skip


def test_images_are_resized_and_looked_alike(server: Server, tmp_path: Path) -> None:
    path = write_list(tmp_path, [server.url(f"ok/{n}") for n in (10, 200)])
    folder = run(path, "--resize", "4", "--quality", "80", "--near_duplicates")
    first, second = status_of(folder)
    assert (first["width"], first["height"]) == (5, 4)
    assert first["bytes"] == len((folder / "list" / "00000000.jpg").read_bytes())
    assert second["near_duplicate_of"] == "00000000"
    assert "near_duplicate_of" not in first


def test_nothing_is_printed_while_it_runs_where_nobody_looks(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_list(tmp_path, [server.url("ok/1")]), *UNDECODED)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[0] == "list: 1 rows, 1 to fetch"
