"""What it costs many ranks to write one file together: the TSV job with a sleep in place of the model.

    python3 -m benchmarks.ranks                       1, 8 and 64 ranks, 16 chunks for each of them, 2 s a chunk
    python3 -m benchmarks.ranks --seconds 0.5         shorter chunks, or a faster model

The job reads features, claims chunks, commits their captions and joins them as it always does; only its captioner
sleeps where others generate. Ranks are processes forked after the imports. Time counts from the first claim to the
moment when the output has its name and a rank hears of it. Ideal is the sleeping alone, shared out evenly; what is over
is told for a chunk, and for the beginning and the end of a run together. All ranks share this machine's cores and disk:
where `cores` comes near their number it is they that are measured.

Last, all ranks do nothing but claim, to see how many claims the store answers in a second.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from git_caption import processes
from git_caption.captioner.captioner import Captioner, Features, Generated, Identity
from git_caption.params.decoding import Decoding, DecodingParams, resolve
from git_caption.params.features import CacheDescription, FeatureOrigin
from git_caption.params.model import TransformConfig
from git_caption.pipeline.captioning import Captioning
from git_caption.pipeline.chunks import CHUNK_ROWS
from git_caption.pipeline.run import run
from git_caption.samples.feature_rows import FeatureSource
from git_caption.samples.features import Block, FeatureRow, write
from git_caption.samples.sample import Failure, FeatureSample

WIDTH = 64
CAPTION = "a large red square at the top left and a small blue circle in the middle"
CLAIMS = 2000  # of each rank, where it does nothing else
AIM = 0.95
FORK = multiprocessing.get_context("fork")


class Sleeping(Captioner):
    """Sleeps for a chunk, and gives all of its rows the same caption; notes how often it did, and when it last woke."""

    base = None
    device = torch.device("cpu")  # type: ignore[assignment]  # a property of captioners that have a network

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.chunks = 0
        self.woke = 0.0

    def caption_prompt(self, prompt: str = "") -> str:
        """None."""
        return prompt

    def prompt_ids(self, prompt: str) -> list[int]:
        """None."""
        return []

    def generate(
        self, features: Features, prompts: Sequence[str], decoding: Decoding, identities: Sequence[Identity]
    ) -> list[list[Generated]]:
        """The caption for each row."""
        time.sleep(self.seconds)
        self.chunks, self.woke = self.chunks + 1, time.monotonic()
        return [[Generated(CAPTION, ())] for _ in prompts]


class Watched(FeatureSource):
    """Notes when the first row was read, which comes right after the first claim."""

    since = 0.0

    def read(self, row: int) -> FeatureSample | Failure:
        """The sample of a row."""
        if not self.since:
            self.since = time.monotonic()
        return super().read(row)


@dataclass(frozen=True)
class Told:
    """What a rank tells of itself.

    since: when it claimed first. computed: when its last chunk was. chunks: how many. until: when it was through.
    processor: seconds that a core has worked for it.
    """

    since: float
    computed: float
    chunks: int
    until: float
    processor: float


def features(path: Path, rows: int) -> None:
    """A feature cache of so many rows."""
    values = np.zeros((1, WIDTH), dtype=np.float16)
    origin = FeatureOrigin(image_encoder="ViT-B/32", weights="00" * 32, output="pooled", transform=TransformConfig(224))
    description = CacheDescription(origin=origin, inputs=(), computed_in="float32", exact_decode=False)
    block = Block.of([FeatureRow(f"{row:012}", values) for row in range(rows)], "float16")
    with open(path, "wb") as file:
        write(file, lambda: iter([block]), description, "float16")


def caption(folder: Path, seconds: float) -> Told:
    """The job, on this rank."""
    source = Watched(folder / "features", None)
    decoding = resolve(DecodingParams(), DecodingParams(), "caption")
    captioner = Sleeping(seconds)
    before = processor()
    captioning = Captioning(captioner, decoding, CHUNK_ROWS, answers=False)
    run(source, captioning, folder / "captions.tsv", {}, num_workers=0)
    return Told(source.since, captioner.woke, captioner.chunks, time.monotonic(), processor() - before)


def claim(_: Path, __: float) -> Told:
    """Claims alone; on one rank there is no store to ask."""
    ranks = processes.met()
    assert ranks is not None, "there is more than one"
    board = ranks.board()
    before, since = processor(), time.monotonic()
    while board.add("claimed", 1) <= CLAIMS * ranks.size:
        pass
    return Told(since, time.monotonic(), CLAIMS, time.monotonic(), processor() - before)


def processor() -> float:
    """Seconds that a core has worked for this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def on_ranks(size: int, work: Callable[[Path, float], Told], folder: Path, seconds: float) -> list[Told]:
    """What each rank tells after the work. Raises RuntimeError if one of them failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers: Any = FORK.SimpleQueue()
    ranks = [
        FORK.Process(target=_rank, args=(number, size, port, work, folder, seconds, answers)) for number in range(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}")
    return [answers.get() for _ in ranks]


def _rank(
    number: int, size: int, port: int, work: Callable[[Path, float], Told], folder: Path, seconds: float, answers: Any
) -> None:
    os.environ.update(RANK=str(number), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes.meet()
    answers.put(work(folder, seconds))
    processes.end(0, "", print)


def shared(sizes: Sequence[int], chunks: int, seconds: float) -> Iterator[str]:
    """The lines of the report on chunks."""
    yield f"{chunks} chunks of {CHUNK_ROWS} rows for each rank, {seconds:g} s a chunk"
    titles = ("ideal, s", "taken, s", "efficiency", "over a chunk, ms", "over else, s", "cores")
    yield f"{'ranks':>8}" + "".join(f"{title:>18}" for title in titles)
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            features(folder / "features", size * chunks * CHUNK_ROWS)
            told = [rank for rank in on_ranks(size, caption, folder, seconds) if rank.chunks]
        ideal, taken = chunks * seconds, min(rank.until for rank in told) - min(rank.since for rank in told)
        each = mean((rank.computed - rank.since) / rank.chunks for rank in told) - seconds
        cores = sum(rank.processor for rank in told) / taken
        values = (f"{ideal:.1f}", f"{taken:.2f}", f"{ideal / taken:.1%}", f"{1e3 * each:.1f}")
        values += (f"{taken - ideal - chunks * each:.2f}", f"{cores:.2f}")
        missed = "" if ideal / taken >= AIM else f"   under {AIM:.0%}: MISSED"
        yield f"{size:8}" + "".join(f"{value:>18}" for value in values) + missed


def claims(sizes: Sequence[int]) -> Iterator[str]:
    """The lines of the report on the store."""
    yield f"\n{'ranks':>8}{'claims a second':>18}{'µs a claim':>18}"
    for size in sizes:
        if size > 1:
            told = on_ranks(size, claim, Path(), 0.0)
            taken = max(rank.until for rank in told) - min(rank.since for rank in told)
            yield f"{size:8}{CLAIMS * size / taken:18.0f}{1e6 * taken / CLAIMS:18.0f}"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64], help="how many, one after the other")
    parser.add_argument("--chunks", type=int, default=16, help="of each rank")
    parser.add_argument("--seconds", type=float, default=2.0, help="that the model takes for a chunk")
    given = parser.parse_args()
    torch.set_num_threads(1)  # of each rank: none of them has a core of its own
    gc.freeze()  # or each rank would copy the pages of all that was imported
    for line in chain(shared(given.ranks, given.chunks, given.seconds), claims(given.ranks)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
