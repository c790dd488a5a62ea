from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from git_caption.downloads import report
from git_caption.downloads.main import main, parse_command
from git_caption.downloads.report import Progress, clock
from git_caption.params.download import DownloadParams
from git_caption.params.schema import describe


def test_help_tells_every_key_its_default_and_examples_that_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"--{row.name} " in said for row in describe(DownloadParams))
    monkeypatch.chdir(tmp_path)
    Path("data/conceptual").mkdir(parents=True)
    Path("photos.csv").touch()
    examples = re.findall(r"python3 download.py ([^'\n]+)", said)
    assert len(examples) == 6
    for line in examples:
        parse_command(line.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected 'data_root' (a folder of CC3M) or 'list'"),
        (["--data_root", ".", "--list", "a.txt"], "expected 'data_root' (a folder of CC3M) or 'list'"),
        (["--list", "none.txt"], "no such file"),
        (
            ["--data_root", "."],
            "neither Validation_GCC-1.1.0-Validation.tsv nor Train_GCC-training.tsv is there: get them at https://",
        ),
        (["--list", "a.txt", "--shard", "4/4"], "'shard': expected auto or i/n with i from 0 to n - 1, found '4/4'"),
        (["--list", "a.txt", "--retry", "timeouts"], "found 'timeouts'"),
        (["--list", "a.txt", "--decode", "False", "--resize", "9"], "'resize': needs the image decoded"),
        (["--list", "a.txt", "--user_agent", "a\nb"], "'user_agent': expected printable ASCII"),
        (["--list", "a.txt", "--allow_private", "10.0.0.0/99"], "'allow_private': expected True, False or networks"),
        (["--list", "a.txt", "--formt", "tsv"], "did you mean --format?"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("http://a\n")
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_line_of_progress() -> None:
    progress = Progress("train", 100)
    for cause in ["ok"] * 20 + ["http_404"] * 4 + ["dns"]:
        progress.add(cause, 1_000_000)
    assert progress.line(10.0) == (
        "train 25/100  ok 20  failed 5 (http_404 4, dns 1)  2 images/s  2.5 MB/s  0:00:30 left"
    )
    assert clock(7384.4) == "2:03:04"


def test_where_no_one_looks_on_a_line_of_progress_is_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("train", 3)
    progress.add("ok", 1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(report, "EVERY_LOGGED_SECONDS", 0.0)
    progress = Progress("train", 3)
    progress.add("dns", 1)
    logged = capsys.readouterr().err
    assert re.fullmatch(r"train 1/3  ok 0  failed 1 \(dns 1\) .* left\n", logged)
    progress.close()
    assert capsys.readouterr().err == ""


def test_the_closing_table_tells_how_private_addresses_are_let_through() -> None:
    assert "--allow_private" not in report.table("mine", Counter(ok=2, dns=1), 9, cc3m=False)
    shown = report.table("mine", Counter(ok=2, private_address=1), 9, cc3m=False)
    assert "private_address: refused; where they are meant: --retry private_address --allow_private" in shown
