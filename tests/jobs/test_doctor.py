from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from git_caption import processes
from git_caption.jobs import doctor, machine
from git_caption.jobs.machine import Section
from git_caption.jobs.main import main


def test_it_tells_every_section_and_writes_the_same(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor.machine.java, "Meteor", pytest.fail)  # slow, and tested below
    found = {
        "versions": Section({"torch": "2"}),
        "Java": Section({"java": "none"}, {"METEOR": "needs Java"}),
    }
    monkeypatch.setattr(doctor, "EXAMINATIONS", {title: lambda s=section: s for title, section in found.items()})
    assert main(["-p", f"{{type: doctor, out_json: {tmp_path}/found.json}}"]) == 0
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if line] == [
        ["versions"],
        ["torch", "2"],
        ["Java"],
        ["java", "none"],
        ["what", "would", "not", "work"],
        ["METEOR:", "needs", "Java"],
    ]
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "versions": {"facts": {"torch": "2"}, "troubles": {}},
        "Java": {"facts": {"java": "none"}, "troubles": {"METEOR": "needs Java"}},
    }


def test_a_library_that_breaks_does_not_keep_the_rest_back(capsys, monkeypatch) -> None:
    def bits() -> Section:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor, "EXAMINATIONS", {"bitsandbytes": bits, "processor": machine.processor})
    assert main(["-p", "{type: doctor}"]) == 0
    printed = capsys.readouterr().out
    assert "  cores " in printed
    assert printed.endswith("what would not work\n  bits: libcudart.so.13: cannot open shared object file\n")


def test_a_package_that_is_missing_is_told_with_what_it_is_for(monkeypatch) -> None:
    real = machine.version
    monkeypatch.setattr(machine, "version", lambda name: real("no-such-package" if name == "peft" else name))
    found = machine.versions()
    assert found.facts["peft"] == "not installed"
    assert found.troubles["LoRA (pip install 'git-caption[lora]')"] == "peft is not installed"
    assert found.facts["torch"][0].isdigit()


@pytest.mark.parametrize(
    ("cuda", "hidden", "driver", "why"),
    [
        (None, None, True, "a build for CPUs"),
        ("13.0", "", True, "CUDA_VISIBLE_DEVICES hides all GPUs"),
        ("13.0", None, False, "or no --nv of Apptainer"),
    ],
)
def test_it_says_why_there_is_no_gpu(cuda, hidden, driver, why, tmp_path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(machine, "DRIVER", tmp_path if driver else tmp_path / "absent")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = machine.gpus()
    assert found.facts["GPUs"] == "none"
    assert why in found.troubles["computing on a GPU"]


def test_without_java_the_other_scores_are_said_to_be_computed(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = machine.java_programs()
    assert found.facts == {"java": "none on the PATH", "METEOR": "does not run", "SPICE": "does not run"}
    assert any("the other scores are computed" in what for what in found.troubles)


def test_meteor_is_run_on_a_caption(monkeypatch) -> None:
    class Meteor(contextlib.AbstractContextManager):
        def __init__(self, timeout):
            assert timeout >= 60

        def __exit__(self, *_): ...

        def scores(self, candidates, references):
            return float([candidates] == references), []

    monkeypatch.setattr(machine.java, "Meteor", Meteor)
    monkeypatch.setattr(machine.java, "require", lambda newest=None: "/usr/bin/java")
    found = machine.java_programs()
    assert found.facts["java"] == "/usr/bin/java"
    assert found.facts["METEOR"] == "runs (a caption against itself: 1.00)"


def test_a_cache_that_cannot_be_written_or_is_small_is_told(tmp_path, monkeypatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "/proc/self")
    found = machine.space()
    assert found.facts["weights"].endswith("read-only")
    assert found.troubles["fetching weights"] == "nothing can be written to /proc/self/hub: set HF_HOME"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "CACHE_GIB", 1e9)
    (tmp_path / "hub/models--gpt2").mkdir(parents=True)
    found = machine.space()
    assert "set HF_HOME to a larger disk" in found.troubles["large models"]
    assert found.facts["repositories in the cache"] == "1"
    assert sorted(path.name for path in Path(tmp_path).rglob("*")) == ["hub", "models--gpt2"]  # nothing is left


def test_the_launchers_variables_are_told_and_a_batch_script_is_not_a_step(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    assert machine.launcher().facts == {"variables": "none: this process was started by hand"}
    job = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    monkeypatch.setattr(os, "environ", job | {"SLURM_CLUSTER_NAME": "x"})
    found = machine.launcher()
    assert found.facts == job | {"so this is": "rank 0 of 1"}
    assert found.troubles["sharing work among the 4 tasks of the job"].endswith("start it with srun")
    place = {"MASTER_ADDR": "gpu1", "MASTER_PORT": "2"}
    monkeypatch.setattr(os, "environ", {**job, **place, "SLURM_STEP_NUM_TASKS": "4"})
    assert machine.launcher().facts["so this is"] == "rank 0 of 4"
    assert not machine.launcher().troubles
    assert processes.launched_with()["SLURM_STEP_NUM_TASKS"] == "4"


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"RANK": "5", "WORLD_SIZE": "2"}, "the environment has RANK=5 and WORLD_SIZE=2; expected a rank from 0"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "2 processes were started without MASTER_ADDR"),
    ],
)
def test_wrong_variables_of_a_launcher_are_a_finding(variables, why, monkeypatch, capsys) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "EXAMINATIONS", {"launcher": machine.launcher})
    assert main(["-p", "{type: doctor}"]) == 0
    said = capsys.readouterr().out
    assert f"running as one of several processes: {why}" in said
    assert "  RANK  " in said


def test_a_cache_with_nothing_in_it_is_told_where_the_hub_may_not_be_asked(tmp_path, monkeypatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert (
        machine.space()
        .troubles["weights by name"]
        .startswith(f"HF_HUB_OFFLINE forbids requests, and nothing is in {tmp_path}/hub:")
    )
    (tmp_path / "hub/models--gpt2").mkdir(parents=True)
    assert "weights by name" not in machine.space().troubles
