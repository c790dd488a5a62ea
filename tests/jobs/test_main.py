"""The command line: what runs, what is refused, and with which exit code and words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from git_caption.errors import DataError, JobFailed, Stopped, UsageError, WeightsError
from git_caption.jobs.main import main, plan
from git_caption.jobs.table import JOBS, Job
from git_caption.params.schema import key

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ProbeParams:
    name: str = key(help="what to say")
    count: int = key(1, minimum=1, help="how often")
    source: str | None = key(None, help="input", kind="input_file")
    out: str | None = key(None, help="output", kind="output_file")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Adds the job `probe`; gives the names it was called with."""
    calls: list[str] = []

    def probe(params: ProbeParams) -> None:
        calls.append(params.name)
        if params.out:
            Path(params.out).write_text(params.name)

    module = types.ModuleType("probe_job")
    module.__dict__.update(probe=probe, ProbeParams=ProbeParams)
    monkeypatch.setitem(sys.modules, "probe_job", module)
    monkeypatch.setitem(JOBS, "probe", Job("probe_job:probe", "probe_job:ProbeParams", "says a name"))
    before = signal.getsignal(signal.SIGTERM)
    yield calls  # type: ignore[misc]
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def failing(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the job `probe` raise."""

    def arrange(error: BaseException) -> None:
        def fail(params: ProbeParams) -> None:
            raise error

        monkeypatch.setattr(sys.modules["probe_job"], "probe", fail)

    return arrange


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "inference.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_a_job_runs_from_p(said: list[str]) -> None:
    assert main(["-p", "{'type': 'probe', 'name': 'a'}"]) == 0
    assert said == ["a"]


def test_jobs_of_a_file_run_in_order(said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text("- type: probe\n  name: a\n- {type: probe, name: b}\n")
    assert main(["-f", str(path)]) == 0
    assert said == ["a", "b"]
    path.write_text(json.dumps({"type": "probe", "name": "c"}))
    assert main(["--file", str(path)]) == 0
    assert said == ["a", "b", "c"]


def test_all_jobs_are_checked_before_the_first_runs(
    said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text("- {type: probe, name: a}\n- {type: probe, nmae: b, count: 0}\n- {type: prob}\n- {name: x}\n")
    assert main(["-f", str(path)]) == 2
    assert said == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {path}: job 2 (probe): unknown key 'nmae'; did you mean 'name'?"
    assert lines[1] == f"       {path}: job 2 (probe): missing key 'name': what to say"
    assert lines[2] == f"       {path}: job 2 (probe): 'count': expected a whole number of at least 1, found 0"
    assert lines[3].startswith("       unknown job type 'prob'; did you mean 'probe'?")
    assert lines[4] == f"       {path}: job 4: missing key 'type', the name of a job; --list names them"
    assert len(lines) == 5


def test_a_job_may_read_what_an_earlier_one_writes(said: list[str], tmp_path: Path) -> None:
    made = str(tmp_path / "made.tsv")
    path = tmp_path / "jobs.json"
    first, second = {"type": "probe", "name": "a", "out": made}, {"type": "probe", "name": "b", "source": made}
    path.write_text(json.dumps([second, first]))
    assert main(["-f", str(path)]) == 2
    path.write_text(json.dumps([first, second]))
    assert main(["-f", str(path)]) == 0
    assert said == ["a", "b"]


def test_a_job_may_read_what_an_earlier_one_writes_beside_what_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val.json").write_text("{}")
    split = {"data_dir": str(tmp_path), "data_type": "val"}
    tsv, scores, labels = (str(tmp_path / name) for name in ("o.json.captions.tsv", "s.json", "labels.json"))
    Path(labels).write_text("[]")
    caption = {"type": "test_git_inference_coco", "model_path": "gpt2", "out_file": str(tmp_path / "o.json"), **split}
    score = {"type": "evaluate_on_coco_caption", "res_file": tsv, "label_file": labels}
    by_split = {"type": "evaluate_on_coco_caption", "result_file": tsv, "outfile": scores, **split}
    written = [
        *("o.json.captions.eval.json", "o.json.captions.eval.per_image.json", "o.json.captions_coco_format.json"),
        *("s.json", "results/evalImgs_val.json"),
    ]
    readers = [{**score, "res_file": str(tmp_path / name)} for name in written]
    assert len(plan([caption, score, by_split, *readers], "jobs.json")) == 8
    with pytest.raises(UsageError) as refused:
        plan([score, *readers], "jobs.json")
    assert str(refused.value).count("no such file") == 6


def test_one_fault_is_one_line(said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-p", "{'type': 'probe', 'name': 'a', 'cuont': 2}"]) == 2
    assert capsys.readouterr().err == "error: probe: unknown key 'cuont'; did you mean 'count'?\n"


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UsageError("bad"), 2, "error: bad\n"),
        (DataError("a.tsv:3: bad"), 1, "error: a.tsv:3: bad\n"),
        (WeightsError("gone"), 1, "error: gone\n"),
        (JobFailed("no"), 1, "error: no\n"),
        (Stopped("saved"), 75, "error: saved\n"),
        (KeyboardInterrupt(), 75, "error: stopped; run the same command again to go on\n"),
        (OSError(28, "No space left on device", "out.tsv"), 1, "error: out.tsv: No space left on device\n"),
        (
            ZeroDivisionError("a\nb"),
            1,
            "error: internal error: ZeroDivisionError: a b; run again with --debug for the traceback\n",
        ),
    ],
)
def test_errors_end_with_their_code_and_one_line(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    printed: str,
) -> None:
    failing(error)
    assert main(["-p", "{'type': 'probe', 'name': 'a'}"]) == code
    assert capsys.readouterr().err == printed


def test_debug_adds_the_traceback(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(ZeroDivisionError("x"))
    assert main(["--debug", "-p", "{'type': 'probe', 'name': 'a'}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith("error: internal error: ZeroDivisionError: x\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: expected a job, given with -p DICT or -f FILE; see --help"),
        (["-x"], "error: unrecognized arguments: -x; see --help"),
        (["-p"], "error: argument -p/--param: expected one argument; see --help"),
        (["-p", "{}", "-f", "x"], "error: argument -f/--file: not allowed with argument -p/--param; see --help"),
        (["-p", "{}"], "error: -p: missing key 'type', the name of a job; --list names them"),
        (["-p", "{'type': 'probe'"], "error: -p: line 1, column 1: this '{' is not closed by a '}'"),
        (["-f", "absent.yaml"], "error: absent.yaml: cannot read the file: No such file or directory"),
    ],
)
def test_wrong_commands_end_with_two(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == message + "\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--list"], ["-p", "{'type': 'help', 'job': 'test_git_inference_single_tsv'}"], ["-p", "{bad"]],
)
def test_help_and_faults_answer_without_heavy_imports(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom git_caption.jobs.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'PIL', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_teaches() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "python3 inference.py -p \"{'type': 'help', 'job': 'test_git_inference_single_tsv'}\"" in done.stdout
    for option in ("-p", "-f", "--list", "--debug", "75"):
        assert option in done.stdout


def test_the_door_is_short_and_works_from_anywhere(tmp_path: Path) -> None:
    assert len((ROOT / "inference.py").read_text().splitlines()) <= 20
    done = run("--list", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(JOBS)


def test_a_terminal_without_unicode_gets_escapes() -> None:
    done = run("--list", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "\\u2192" in done.stdout


def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(ROOT / "inference.py"), "--list"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopping_signal_ends_a_job_with_75_also_where_it_comes_again(number: signal.Signals) -> None:
    code = (
        "import atexit, os, sys, types, time\n"
        "from git_caption.jobs import table, main\n"
        "from git_caption.params.help import HelpParams\n"
        "def wait(params):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.modules['waiting'] = types.ModuleType('waiting')\n"
        "sys.modules['waiting'].wait, sys.modules['waiting'].HelpParams = wait, HelpParams\n"
        "table.JOBS['wait'] = table.Job('waiting:wait', 'waiting:HelpParams', 'waits')\n"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))\n"
        "sys.exit(main.main())\n"
    )
    command = [sys.executable, "-c", code, "-p", "{type: wait}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (75, "error: stopped; run the same command again to go on\n")
