"""Giving a job to Slurm: a batch script of resources and the launch line of slurm/."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from git_caption.errors import JobFailed, UsageError
from git_caption.jobs import main, table
from git_caption.params.literal import parse_file
from git_caption.params.submit import SubmitParams
from git_caption.params.training.settings import settle
from git_caption.tsv.writer import write_atomically

LAUNCH = Path("slurm")
SECONDS = 60.0  # for sbatch to answer


def submit(params: SubmitParams) -> None:
    """Write the batch script, submit it and say how to follow it; or print it, with `dry_run`.

    Raises:
        UsageError: what is wrong with the job or the config, the same as without Slurm; or no clone to run in.
        JobFailed: there is no sbatch here, or it refuses.
    """
    _check(params)
    if not (LAUNCH / "steps.sh").is_file():
        raise UsageError(
            f"no {LAUNCH}/ in {Path.cwd()}, whose scripts start the job: run this in a clone of git_caption"
        )
    if params.gpus is None:
        params = replace(params, gpus=_gpus())
    text = script(params)
    if params.dry_run:
        print(text, end="")
        return
    path = Path(params.out_dir, f"{params.called}.sbatch")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    number = _submitted(path)
    log = path.with_name(f"{params.called}-{number}.log")
    print(f"wrote {path}\nsubmitted job {number}")
    follow = shlex.join(["tail", "--follow=name", "--retry", str(log)])
    print(f"follow it: squeue --jobs={number}; {follow}\nstop it: scancel {number}")


def script(params: SubmitParams) -> str:
    """The batch script; it runs one of slurm/, whose own resources are comments there."""
    tasks = params.processes_per_node if params.train is None else 1  # torchrun starts the others
    cores = params.cpus * (1 if params.train is None else params.processes_per_node)
    resources = [
        f"--job-name={params.called}",
        f"--nodes={params.nodes}",
        f"--ntasks-per-node={tasks}",
        f"--cpus-per-task={cores}",
        *([f"--gpus-per-node={params.gpus}"] if params.gpus else []),
        *([f"--mem={params.memory}"] if params.memory else []),
        f"--time={params.time}",
        *([f"--partition={params.partition}"] if params.partition else []),
        *([f"--account={params.account}"] if params.account else []),
        "--signal=B:USR1@60",
        "--requeue",
        "--open-mode=append",
        f"--output={params.out_dir}/%x-%j.log",
        *params.options,
    ]
    if params.train is not None:
        launch = f"train.sbatch --config {shlex.quote(params.train)}"
    else:
        launch = f"infer.sbatch -p {shlex.quote(json.dumps(params.job))}"
    lines = ["#!/bin/bash", *(f"#SBATCH {shlex.quote(option)}" for option in resources), "", *_variables(params)]
    return "\n".join([*lines, f". {LAUNCH}/{launch}", ""])


def _variables(params: SubmitParams) -> list[str]:
    """What the scripts of slurm/ are told."""
    told = {"PROCESSES": str(params.processes_per_node)} if params.train is not None else {}
    if params.container is None:
        told["PYTHON"] = sys.executable
    else:
        told |= {"CONTAINER": params.container, "BIND": ",".join([str(Path.cwd()), *params.bind])}
    return [f"export {name}={shlex.quote(value)}" for name, value in told.items()]


def _check(params: SubmitParams) -> None:
    """Find now what the job would find when its turn has come."""
    if params.train is not None:
        given = parse_file(params.train)
        settle(given[0], {}, params.train)
        return
    assert params.job is not None, "checked with the parameters"
    [(job, _)] = main.plan([params.job], "submit: 'job'")
    name = table.name_of(job)
    if name == "submit":
        raise UsageError("submit: 'job': expected a job that does the work, found 'submit'")
    several = params.nodes * params.processes_per_node
    if several > 1 and not job.on_ranks:
        raise UsageError(
            f"submit: {name} runs as one process, and {several} were asked for: leave out 'nodes' and 'processes'"
        )


def _gpus() -> int:
    """One, or none where Slurm says that no node has any."""
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%G"], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return 1
    return int(done.returncode != 0 or "gpu" in done.stdout)


def _submitted(path: Path) -> str:
    """The number of the job."""
    if shutil.which("sbatch") is None:
        command = shlex.join(["sbatch", str(path)])
        raise JobFailed(f"wrote {path}, and there is no sbatch on the PATH: submit it where there is, {command}")
    try:
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise JobFailed(f"sbatch did not answer within {SECONDS:g} s; see squeue whether the job is there") from error
    if done.returncode != 0:
        raise JobFailed(f"sbatch refused {path}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]  # the name of the cluster may follow
