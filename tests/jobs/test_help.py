"""What help says, and that its examples hold."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from git_caption.errors import UsageError
from git_caption.jobs.help import NEEDS, job_help, job_list, show, steps
from git_caption.jobs.main import plan
from git_caption.jobs.table import JOBS
from git_caption.params.help import HelpParams
from git_caption.params.literal import parse_literal
from git_caption.params.schema import describe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", JOBS)
def test_help_tells_every_key_and_prints_the_example(name: str) -> None:
    text = job_help(name)
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.strip()]
    for row in describe(JOBS[name].load_params()):
        assert row.name in lines
        assert row.help.split()[0] in text
    assert text.startswith(f"{name}: {JOBS[name].summary}\n")
    assert text.split("\n\n")[-1].splitlines()[1:] == ["  " + step for step in steps(name)]
    assert max(len(line) for line in text.split("\n\nexample")[0].splitlines()) <= 110


def test_help_tells_types_and_defaults() -> None:
    lines = " ".join(job_help("test_git_inference_single_tsv").split())
    assert "out_tsv TSV to write; JSONL or Parquet where it ends in .jsonl or .parquet [text; required]" in lines
    assert "image_tsv image TSV: key, base64 of an image file; or tars as" in lines
    assert (
        "batch_size images, or prompts about them, computed at once [a whole number of at least 1; default 32]" in lines
    )
    assert "[one of auto, float32, bfloat16, float16; default 'auto']" in lines


@pytest.mark.parametrize("name", JOBS)
def test_examples_are_accepted_as_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("git_caption.params.packages.find_spec", lambda name: name)
    (tmp_path / "data/shapes/model").mkdir(parents=True)
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference/scene.jpg").write_text("")
    for file in ("test.img.tsv", "test.question.tsv", "test.caption.tsv"):
        (tmp_path / "data/shapes" / file).write_text("")
    for folder in ("coco/annotations", "conceptual", "vqav2", "nice", "instagram_data", "flickr8k"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data/train.json").write_text("[]")
    (tmp_path / "data/coco/annotations/captions_val2017.json").write_text("{}")
    words = [shlex.split(step) for step in steps(name) if step.startswith("python3")]
    assert all(line[:3] == ["python3", "inference.py", "-p"] and len(line) == 4 for line in words)
    given = [parse_literal(line[3], "-p") for line in words]
    assert given[-1]["type"] == name
    assert len(plan(given, "-p")) == len(given)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in JOBS if name not in NEEDS])
def test_examples_run_as_printed(name: str, tmp_path: Path) -> None:
    if not (ROOT / "data/shapes/model/config.json").is_file():
        pytest.skip("the embedded model is not here")
    for entry in ("data", "git_caption", "inference.py"):
        (tmp_path / entry).symlink_to(ROOT / entry)
    for step in steps(name):
        line = step.replace("python3", sys.executable, 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_list_has_a_line_for_each_job(capsys: pytest.CaptureFixture[str]) -> None:
    show(HelpParams())
    printed = capsys.readouterr().out
    assert printed == job_list() + "\n"
    assert [line.split()[0] for line in printed.splitlines()] == list(JOBS)


def test_help_of_an_unknown_job_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown job type 'prefech'; did you mean 'prefetch'\?"):
        show(HelpParams(job="prefech"))
