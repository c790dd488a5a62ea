"""Processes that write one output together, started from a server that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np

from git_caption import command_line, processes
from git_caption.jobs.main import plan
from git_caption.pipeline.feature_parts import FeatureParts
from git_caption.pipeline.run import run
from git_caption.pipeline.tsv_parts import TSV
from git_caption.samples.features import FeatureRow
from git_caption.samples.prepared import PreparedRows
from tests.feature_origins import description
from tests.pipeline.program import Numbers

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line does, before torch is imported
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", __name__])


@dataclass(frozen=True)
class Work:
    """One run: squares of numbers into `out`, or features; what each chunk takes, by rank; and what befalls a rank.

    `log` gets a line for each chunk begun: rank and chunk. `faults` names what a rank does in the first chunk that it
    computes.
    """

    out: Path
    rows: int
    seconds: Mapping[int, float] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[int, int] = field(default_factory=dict)
    features: bool = False
    workers: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1
    dead_seconds: float = 30.0

    @property
    def log(self) -> Path:
        return self.out.parent / "log"

    def begun(self) -> list[tuple[int, int]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(rank), int(chunk)) for rank, chunk in (line.split() for line in lines)]

    def do(self, rank: int = 0) -> None:
        form = FeatureParts(description(), "float32") if self.features else TSV
        settings = {"power": self.settings.get(rank, 2)}
        for number in range(self.runs):
            out = self.out.with_name(f"{number}{self.out.name}") if number else self.out
            summary = run(
                Numbers(self.rows),
                lambda numbers: self.computed(numbers, rank),
                out,
                settings,
                form=form,
                num_workers=self.workers,
                halved=lambda: 10 + rank,
                **self.options,
            )
            if rank == 0:
                print(summary)

    def computed(self, numbers: list[int], rank: int) -> Sequence[Any]:
        with open(self.log, "a") as log:
            log.write(f"{rank} {numbers[0] // 256}\n")
        fault = self.faults.get(rank)
        if fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stops":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault == "bug":
            raise ValueError("a bug")
        time.sleep(self.seconds.get(rank, 0.0))
        if self.features:
            return [FeatureRow(str(n), np.full((1 + n % 3, 2), n / 7, dtype=np.float32)) for n in numbers]
        return [[[f"key{n}", str(n**2)]] for n in numbers]


@dataclass(frozen=True)
class Jobs:
    """Jobs of inference.py. Every row of data that is prepared takes a while, so that there is something to share.

    `log` gets the rank that read it.
    """

    out: Path
    jobs: Sequence[dict[str, Any]]
    dead_seconds: float = 30.0

    @property
    def log(self) -> Path:
        return self.out.parent / "log"

    def do(self, rank: int = 0) -> None:
        read = PreparedRows.read

        def slowly(rows: PreparedRows, row: int) -> Any:
            time.sleep(0.001)
            with open(self.log, "a") as log:
                log.write(f"{rank}\n")
            return read(rows, row)

        PreparedRows.read = slowly
        for job, params in plan(self.jobs, "-p"):
            job.load_function()(params)


@dataclass
class Ended:
    """How processes ended: exit codes, and what they printed, all together."""

    codes: list[int | None]
    out: str
    err: str
    seconds: float


def started(work: Work | Jobs, size: int) -> list[ForkServerProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("printed", "told"):
        (work.out.parent / name).write_text("")
    ranks = [CONTEXT.Process(target=_rank, args=(work, rank, size, port)) for rank in range(size)]
    for process in ranks:
        process.start()
    return ranks


def ended(work: Work | Jobs, ranks: Sequence[ForkServerProcess], since: float) -> Ended:
    for process in ranks:
        process.join(60)
        if process.exitcode is None:
            process.kill()
    printed = [(work.out.parent / name).read_text() for name in ("printed", "told")]
    return Ended([process.exitcode for process in ranks], *printed, time.monotonic() - since)


def together(work: Work | Jobs, size: int) -> Ended:
    since = time.monotonic()
    return ended(work, started(work, size), since)


def _rank(work: Work | Jobs, rank: int, size: int, port: int) -> None:
    for descriptor, name in ((1, "printed"), (2, "told")):
        os.dup2(os.open(work.out.parent / name, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes.ranks.BEAT_SECONDS, processes.ranks.DEAD_SECONDS = 0.1, work.dead_seconds

    def command(_: Sequence[str]) -> None:
        processes.meet()
        work.do(rank)

    code = command_line.run(command, [], stopped="stopped", end=processes.end)
    sys.stdout.flush()
    sys.exit(code)
