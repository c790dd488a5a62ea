"""Where and in which precision a run computes: torch's processes, devices and autocast, through accelerate."""

from __future__ import annotations

import ctypes
import sys
from contextlib import nullcontext
from typing import Literal

import torch
from accelerate import Accelerator

from git_caption import processes
from git_caption.captioner.loading import device_of, dtype_of
from git_caption.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
MODES = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def accelerator_of(device: str, precision: Precision) -> Accelerator:
    """What places, synchronises and scales a run's computation; under a launcher each process has a GPU of its own.

    Raises:
        UsageError: a device that is not there, or one that cannot train in this precision.
    """
    where = device_of(device)
    dtype = dtype_of(precision, where)
    if dtype == torch.float16 and where.type != "cuda":
        raise UsageError(f"'precision': float16 trains on a GPU only, not on {where}; use bfloat16 or float32")
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)
    if where.type == "cpu":
        _keep_memory()
    # one process takes the same steps with a launcher as without, also of a model that is spread over devices
    with nullcontext() if processes.world_size() > 1 else processes.unlaunched():
        return Accelerator(cpu=where.type == "cpu", mixed_precision=MODES[dtype])


def _keep_memory() -> None:
    """Let this process keep what it frees.

    By default glibc gives large tensors back to the system at once, and each step gets them again a page at a time,
    zeroed: a fifth of the time of fine-tuning GPT-2 124M. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
