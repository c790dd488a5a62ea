"""What is given to Slurm, with a program in place of sbatch."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from git_caption.jobs.main import main

ROOT = Path(__file__).resolve().parents[2]
JOB = {
    "type": "test_git_inference_single_tsv",
    "model_path": "data/shapes/model",
    "image_tsv": "data/shapes/test.img.tsv",
    "out_tsv": "it's here.tsv",
}


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder as a clone looks, with an sbatch and a sinfo that have no GPUs."""
    for name in ("slurm", "data", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    programs = {
        "sbatch": 'echo "$@" > sbatch.said; [ -z "$REFUSED" ] || { echo "$REFUSED" >&2; exit 1; }; echo "17;main"'
    }
    programs["sinfo"] = 'echo "(null)"'
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(**keys) -> int:
    return main(["-p", json.dumps({"type": "submit", **keys})])


def read(script: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The options, the variables and the words of the launch line."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = [shlex.split(line) for line in re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)]
    assert all(len(flags) == 1 for flags in words)
    options = dict(flag.removeprefix("--").partition("=")[::2] for [flag] in words)
    variables = dict(shlex.split(line)[1].split("=", 1) for line in script.splitlines() if line.startswith("export "))
    return options, variables, shlex.split(script.splitlines()[-1])


def test_a_job_is_written_submitted_and_can_be_followed(clone, capsys) -> None:
    assert submit(job=JOB, nodes=2, time="4:00:00", options=["--constraint=a100"]) == 0
    said = capsys.readouterr().out
    assert (clone / "sbatch.said").read_text() == "--parsable jobs/test_git_inference_single_tsv.sbatch\n"
    options, variables, launch = read((clone / "jobs/test_git_inference_single_tsv.sbatch").read_text())
    wanted = {"nodes": "2", "ntasks-per-node": "1", "time": "4:00:00", "signal": "B:USR1@60", "constraint": "a100"}
    assert wanted.items() <= options.items()
    assert "gpus-per-node" not in options and "mem" not in options
    assert variables == {"PYTHON": sys.executable}
    assert launch[:3] == [".", "slurm/infer.sbatch", "-p"] and json.loads(launch[3]) == JOB
    assert "submitted job 17\n" in said
    assert "squeue --jobs=17; tail --follow=name --retry jobs/test_git_inference_single_tsv-17.log" in said


def test_a_dry_run_prints_the_script_and_submits_nothing(clone, capsys) -> None:
    assert submit(job=JOB, gpus=4, memory="100G", partition="gpu", account="mine", dry_run=True) == 0
    options, _, _ = read(capsys.readouterr().out)
    wanted = {"ntasks-per-node": "4", "gpus-per-node": "4", "mem": "100G", "partition": "gpu", "account": "mine"}
    assert wanted.items() <= options.items()
    assert not (clone / "sbatch.said").exists() and not (clone / "jobs").exists()


def test_a_training_has_one_torchrun_on_a_node_and_runs_in_the_container(clone, capsys) -> None:
    (clone / "container.sif").touch()
    (clone / "my run.yaml").write_text(
        "{init_from: data/shapes/model, image_tsv: data/shapes/test.img.tsv, "
        "caption_tsv: data/shapes/test.caption.tsv, output_dir: out, epochs: 1}"
    )
    settings = {"gpus": 2, "cpus": 4, "container": "container.sif", "bind": ["/data"], "out_dir": "my jobs"}
    assert submit(train="my run.yaml", options=["--comment=two words"], **settings) == 0
    options, variables, launch = read((clone / "my jobs/my run.sbatch").read_text())
    assert {"job-name": "my run", "ntasks-per-node": "1", "cpus-per-task": "8"}.items() <= options.items()
    assert (options["output"], options["comment"]) == ("my jobs/%x-%j.log", "two words")
    assert "tail --follow=name --retry 'my jobs/my run-17.log'" in capsys.readouterr().out
    assert variables == {"PROCESSES": "2", "CONTAINER": "container.sif", "BIND": f"{clone},/data"}
    assert launch == [".", "slurm/train.sbatch", "--config", "my run.yaml"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"job": {**JOB, "model_pat": "x"}}, "unknown key 'model_pat'; did you mean 'model_path'?"),
        ({"job": {"type": "help"}, "nodes": 2}, "submit: help runs as one process, and 2 were asked for"),
        ({"job": {"type": "submit", "job": JOB}}, "submit: 'job': expected a job that does the work, found 'submit'"),
        ({}, "submit: expected 'job' (a job of inference.py) or 'train' (a config), one of them"),
        ({"job": JOB, "train": "configs/shapes.yaml"}, "one of them"),
        ({"job": JOB, "time": "4 hours"}, "'time': expected hours:minutes:seconds, as '4:00:00', or '2-12'"),
        ({"job": JOB, "options": ["a100"]}, "'options': expected flags of sbatch, as --constraint=a100, found 'a100'"),
        ({"train": "configs/cc3m/train.yaml"}, "configs/cc3m/train.yaml: 'image_tsv': no such file"),
    ],
    ids=str,
)
def test_faults_are_found_before_anything_is_submitted(clone, capsys, keys, message) -> None:
    assert submit(**keys) == 2
    assert message in capsys.readouterr().err
    assert not (clone / "sbatch.said").exists()


def test_a_refusal_of_sbatch_is_told(clone, capsys, monkeypatch) -> None:
    monkeypatch.setenv("REFUSED", "sbatch: error: invalid partition specified: gpu")
    assert submit(job=JOB, partition="gpu") == 1
    assert "sbatch refused jobs/test_git_inference_single_tsv.sbatch: sbatch: error: invalid" in capsys.readouterr().err


def test_without_slurm_the_script_is_written_all_the_same(clone, capsys, monkeypatch) -> None:
    for name in ("sbatch", "sinfo"):
        (clone / "bin" / name).unlink()
    monkeypatch.setenv("PATH", f"{clone}/bin")
    assert submit(job=JOB) == 1
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "there is no sbatch on the PATH: submit it where there is" in capsys.readouterr().err
    assert read((clone / "jobs/test_git_inference_single_tsv.sbatch").read_text())[0]["gpus-per-node"] == "1"


def test_a_folder_without_the_scripts_is_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert submit(job={"type": "help"}) == 2
    assert "run this in a clone of git_caption" in capsys.readouterr().err
