"""Parameters of the job that gives another one to Slurm."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from git_caption.params.schema import key

TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}")
MEMORY = re.compile(r"\d+[KMGT]?")
NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class SubmitParams:
    """Keys of `submit`."""

    job: dict[str, Any] | None = key(
        None,
        help="the job to run: its 'type' and its keys",
        example={
            "type": "test_git_inference_single_tsv",
            "model_path": "data/shapes/model",
            "image_tsv": "data/shapes/test.img.tsv",
            "out_tsv": "inference/example/captions.tsv",
        },
    )
    train: str | None = key(None, help="in its place: a config of train.py", kind="input_file")
    nodes: int = key(1, minimum=1, help="machines")
    gpus: int | None = key(None, minimum=0, help="GPUs on each node; None: one, or none where sinfo lists none")
    processes: int | None = key(None, minimum=1, help="processes on each node; None: one for each GPU, or one")
    cpus: int = key(6, minimum=1, help="cores for each process")
    memory: str | None = key(None, help="memory on each node, as 48G; None: what the cluster gives", example="2G")
    time: str = key("12:00:00", help="limit as hours:minutes:seconds, or days-hours; a run goes on after it")
    partition: str | None = key(None, help="partition; None: the cluster's own choice")
    account: str | None = key(None, help="account that the time is charged to")
    options: tuple[str, ...] = key((), help="further flags of sbatch, as --constraint=a100")
    name: str | None = key(None, help="name of the job; None: its type, or that of the config")
    container: str | None = key(None, help="image to run it in; None: this Python", kind="input_file")
    bind: tuple[str, ...] = key((), help="folders to bind into the container beside this one")
    out_dir: str = key(
        "jobs", help="folder of the batch script and the log", kind="output_dir", example="inference/jobs"
    )
    dry_run: bool = key(False, help="print the batch script and submit nothing", example=True)

    @property
    def processes_per_node(self) -> int:
        """`processes`, with None settled."""
        return self.processes or max(1, self.gpus or 0)

    @property
    def called(self) -> str:
        """`name`, with None settled."""
        if self.name is not None:
            return self.name
        if self.train is not None:
            return os.path.splitext(os.path.basename(self.train))[0]
        return str((self.job or {}).get("type", "job"))

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Neither or both of the two, and what sbatch would refuse, as (keys concerned, message)."""
        if (self.job is None) == (self.train is None):
            yield ("job", "train"), "expected 'job' (a job of inference.py) or 'train' (a config), one of them"
        if not TIME.fullmatch(self.time):
            yield ("time",), f"'time': expected hours:minutes:seconds, as '4:00:00', or '2-12', found {self.time!r}"
        if self.memory is not None and not MEMORY.fullmatch(self.memory):
            yield ("memory",), f"'memory': expected a number with K, M, G or T, as '48G', found {self.memory!r}"
        if self.name is not None and not NAME.fullmatch(self.name):
            yield ("name",), f"'name': expected letters, digits, '_', '.' and '-', found {self.name!r}"
        for option in self.options:
            if not option.startswith("-") or "\n" in option:
                yield ("options",), f"'options': expected flags of sbatch, as --constraint=a100, found {option!r}"
