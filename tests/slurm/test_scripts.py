"""What the batch scripts do by themselves, with programs in place of Slurm's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BATCH = sorted((ROOT / "slurm").glob("*.sbatch"))
PROGRAMS = {
    "srun": 'echo "$*" >> srun.said; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": """case "$*" in
        "show hostnames "*) echo n1; echo n2 ;;
        "show node n1") echo " Arch=x86_64 NodeAddr=10.0.0.1 Version=22" ;;
        *) echo "$*" >> scontrol.said ;;
        esac""",
    "scancel": 'echo "$*" >> scancel.said; kill -URG "$(cat step.pid)"',
    "sbatch": 'printf "%s|" "$@" >> sbatch.said; echo >> sbatch.said; wc -l < sbatch.said',
    "apptainer": 'printf "%s\\n" "$@" > apptainer.said',
}


@pytest.fixture
def job(tmp_path: Path):
    """Gives what starts a batch script as Slurm does; the folder holds what Slurm's programs were told."""
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "4",
    }

    def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", script, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def step(tmp_path: Path, body: str) -> str:
    """A program that stands for Python: writes its number, then does `body`."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/bash\ntrap "exit 75" TERM\necho "$@" > asked\n{body}\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("code", "queued"), [(0, False), (1, False), (2, False), (75, True)], ids=["done", "failed", "usage", "stopped"]
)
def test_a_job_is_queued_again_only_where_its_state_was_saved(job, tmp_path, code, queued) -> None:
    process = job(str(ROOT / "slurm/evaluate.sbatch"), "-f", "jobs.yaml", PYTHON=step(tmp_path, f"exit {code}"))
    process.communicate(timeout=30)
    assert process.returncode == code
    assert (tmp_path / "asked").read_text() == "inference.py -f jobs.yaml\n"
    requeued = (tmp_path / "scontrol.said").read_text() if (tmp_path / "scontrol.said").exists() else ""
    assert requeued == ("requeue 17\n" if queued else "")


def test_a_warning_stops_the_step_and_queues_the_job_again(job, tmp_path) -> None:
    python = step(tmp_path, "echo $PPID > step.pid; while true; do sleep 0.05; done")
    process = job(str(ROOT / "slurm/infer.sbatch"), PYTHON=python)
    while not (tmp_path / "step.pid").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert said.splitlines() == ["the time is nearly up: stopping", "stopped early: queued again"]
    assert (tmp_path / "scancel.said").read_text() == "--signal=URG 17\n"
    assert (tmp_path / "scontrol.said").read_text() == "requeue 17\n"


@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM])
def test_a_task_that_a_signal_meets_ends_with_75_whatever_its_launcher_makes_of_it(number) -> None:
    launcher = "trap 'exit 1' TERM; echo; while true; do sleep 0.05; done"
    command = ["bash", str(ROOT / "slurm/task.sh"), "bash", "-c", launcher]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"\n"
    os.killpg(process.pid, number)  # as Slurm, to all processes of the step
    assert process.wait(timeout=30) == 75


def test_a_warning_reaches_the_command_alone_and_once(tmp_path) -> None:
    """Not what runs beside it, as the program that holds a container's image."""
    launcher = (
        "sleep 60 & trap 'kill -0 $! && echo term >> said' TERM; echo; "
        "until [ -e said ]; do sleep 0.05; done; sleep 0.5; kill $!; exit 75"
    )
    command = ["bash", str(ROOT / "slurm/task.sh"), "bash", "-c", launcher]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"\n"
    os.killpg(process.pid, signal.SIGURG)
    assert process.wait(timeout=30) == 75
    assert (tmp_path / "said").read_text() == "term\n"


@pytest.mark.parametrize("code", [0, 1, 2, 75, 137])
def test_a_task_ends_as_its_command(code) -> None:
    assert subprocess.run(["bash", str(ROOT / "slurm/task.sh"), "bash", "-c", f"exit {code}"]).returncode == code


def test_training_starts_a_torchrun_on_each_node(job, tmp_path) -> None:
    process = job(
        str(ROOT / "slurm/train.sbatch"),
        "--config",
        "a.yaml",
        PYTHON=step(tmp_path, "env > env"),
        SLURM_GPUS_ON_NODE="2",
    )
    process.communicate(timeout=30)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-m torch.distributed.run --nnodes=2 --nproc-per-node=2 ")
    assert "--rdzv-id=17 --rdzv-endpoint=10.0.0.1:20136 " in asked
    assert asked.endswith(" train.py --config a.yaml\n")
    variables = (tmp_path / "env").read_text().splitlines()
    assert {"OMP_NUM_THREADS=2", "SRUN_CPUS_PER_TASK=4", "MASTER_ADDR=10.0.0.1"} <= set(variables)


def test_a_task_of_an_array_is_a_part_and_is_queued_again_without_the_other_tasks(job, tmp_path) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}  # the one whose number is that of the array
    job(
        str(ROOT / "slurm/download.sbatch"), "--data_root", "d", PYTHON=step(tmp_path, "exit 75"), SHARDS="16", **task
    ).wait(timeout=30)
    assert (tmp_path / "asked").read_text() == "download.py --shard 3/16 --data_root d\n"
    assert (tmp_path / "scontrol.said").read_text() == "requeue 17_3\n"


def test_a_step_runs_in_the_container_that_is_named(job, tmp_path) -> None:
    own = {"CONTAINER": "my c.sif", "BIND": "/a b,/c", "PYTHON": "/host", "HF_HOME": str(tmp_path)}
    job(str(ROOT / "slurm/infer.sbatch"), "-f", "j.yaml", **own).wait(timeout=30)
    words = (tmp_path / "apptainer.said").read_text().splitlines()
    assert words[:5] == ["exec", "--nv", "--bind", f"/a b,/c,{tmp_path}", "my c.sif"]
    assert words[5:] == ["python3", "inference.py", "-f", "j.yaml"]
    job(str(ROOT / "slurm/infer.sbatch"), CONTAINER="c.sif", HF_HOME=f"{tmp_path}/absent").wait(timeout=30)
    assert (tmp_path / "apptainer.said").read_text().splitlines()[:4] == ["exec", "--nv", "--bind", str(tmp_path)]


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_each_batch_script_is_warned_and_may_be_queued_again(path: Path) -> None:
    options = re.findall(r"^#SBATCH (\S+)$", path.read_text(), re.MULTILINE)
    assert {"--signal=B:USR1@60", "--requeue", "--open-mode=append"} <= set(options)
    subprocess.run(["bash", "-n", path], check=True)


def pipeline(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **variables}
    command = ["slurm/pipeline.sh", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def submitted(tmp_path: Path) -> list[list[str]]:
    """The words that sbatch was given, by call, without those that are always there."""
    calls = [line.removesuffix("|").split("|") for line in (tmp_path / "sbatch.said").read_text().splitlines()]
    assert all(call[0] == "--parsable" and call[2] == "--kill-on-invalid-dep=yes" for call in calls)
    return [[call[1].removeprefix("--job-name="), *call[3:]] for call in calls]


@pytest.fixture
def stages(job, tmp_path) -> Path:
    """A folder with four of the five stages."""
    folder = tmp_path / "my run"
    folder.mkdir()
    for name in ("prepare.yaml", "train.yaml", "evaluate.yaml"):
        (folder / name).write_text("")
    (folder / "download.args").write_text("# CC3M\n--data_root 'my data'\n--format tsv\n")
    (folder / "resources.args").write_text("train --nodes=2 --time=1:00:00\n")
    return folder


def test_stages_whose_files_are_there_follow_one_another(stages, tmp_path) -> None:
    said = pipeline(tmp_path, "my run", "--partition=gpu")
    assert said.returncode == 0, said.stderr
    assert [" ".join(words) for words in submitted(tmp_path)] == [
        "download --partition=gpu slurm/download.sbatch --data_root my data --format tsv",
        "prepare --dependency=afterok:1 --partition=gpu slurm/evaluate.sbatch -f my run/prepare.yaml",
        "train --dependency=afterok:2 --partition=gpu --nodes=2 --time=1:00:00 slurm/train.sbatch "
        "--config my run/train.yaml",
        "evaluate --dependency=afterok:3 --partition=gpu slurm/evaluate.sbatch -f my run/evaluate.yaml",
    ]
    assert submitted(tmp_path)[0][3:] == ["--data_root", "my data", "--format", "tsv"]
    assert said.stdout.splitlines()[:2] == ["download: job 1", "prepare: job 2, dependency=afterok:1"]


def test_a_run_is_taken_up_at_a_later_stage(stages, tmp_path) -> None:
    assert pipeline(tmp_path, "my run", STAGES="infer evaluate").returncode == 0
    assert submitted(tmp_path) == [["evaluate", "slurm/evaluate.sbatch", "-f", "my run/evaluate.yaml"]]


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, "expected a folder of stages, found ''"),
        (["my runs"], {}, "expected a folder of stages, found 'my runs'"),
        (["slurm"], {}, "slurm has no file of a stage"),
        (["my run"], {"STAGES": "inference"}, "STAGES has 'inference'; expected some of download, prepare, train"),
    ],
    ids=["none", "absent", "without stages", "unknown stage"],
)
def test_a_run_without_stages_is_an_error(stages, tmp_path, arguments, variables, said) -> None:
    found = pipeline(tmp_path, *arguments, **variables)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"error: {said}")


def test_flags_that_cannot_be_read_and_a_refusal_of_sbatch_end_the_pipeline(stages, tmp_path) -> None:
    (stages / "download.args").write_text("--data_root 'my data\n")
    assert "unmatched single quote" in pipeline(tmp_path, "my run").stderr
    assert not (tmp_path / "sbatch.said").exists()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    found = pipeline(tmp_path, "my run", STAGES="train evaluate")
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "sbatch: error: Invalid account\n")
