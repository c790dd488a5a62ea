"""How a job runs: batch size, device, precision, and what happens to rows that cannot be processed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class RunningParams:
    """Keys that every inference job takes beside the decoding keys."""

    batch_size: int = key(32, minimum=1, help="images, or prompts about them, computed at once")
    num_workers: int | None = key(
        None, minimum=0, help="processes that decode images; None: the cores less one, at most 4"
    )
    device: str = key("auto", help="auto (a GPU where there is one), cpu, mps, cuda or cuda:1")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", help="precision; auto is float32 on a CPU and bfloat16 on a GPU"
    )
    quantization: Literal["none", "8bit", "4bit"] | None = key(
        None, help="weights of the language model in 8 or 4 bits; None: as the checkpoint says"
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = key(
        None,
        help="spreads the language model over devices: a way of accelerate's, or module: device; None: on `device`",
    )
    max_memory: dict[str, int | str] | None = key(
        None, help="what device_map may use of each device, as {'0': '20GiB', 'cpu': '60GiB'}; None: all there is"
    )
    exact_decode: bool = key(
        False, help="decode large JPEGs in full; else they are scaled down on the way, faster and nearly the same"
    )
    on_error: Literal["skip", "raise"] = key(
        "skip", help="a row that cannot be processed: skip lists it in OUT.errors.tsv, raise ends the job"
    )
    max_errors: int | None = key(None, minimum=0, help="the job fails past so many skipped rows; None: no bound")
    resume: bool = key(True, help="go on from what a stopped run of the same command left")

    @property
    def workers(self) -> int:
        """`num_workers`, with None settled for this machine."""
        if self.num_workers is not None:
            return self.num_workers
        allowed = getattr(os, "sched_getaffinity", None)
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        return max(0, min(4, cores - 1))

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A device that does not exist by name, and a bound on nothing, as (keys concerned, message)."""
        if not DEVICE.fullmatch(self.device):
            yield ("device",), f"'device': expected auto, cpu, mps, cuda or cuda:N, found {self.device!r}"
        if self.max_memory is not None and self.device_map is None:
            yield (
                ("max_memory", "device_map"),
                "'max_memory': bounds a 'device_map' and there is none: give one, as 'auto'",
            )
