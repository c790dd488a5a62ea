"""The machine section by section: facts, and what of git_caption would not work on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.captioner import hub
from git_caption.errors import UsageError, reason
from git_caption.metrics import java
from git_caption.params.hub_cache import cache_folder

NEEDED = ("torch", "torchvision", "transformers", "tokenizers", "open_clip_torch", "accelerate", "numpy", "pillow")
OPTIONAL = {
    "bitsandbytes": "8 and 4 bits (pip install 'git-caption[8bit]')",
    "peft": "LoRA (pip install 'git-caption[lora]')",
    "pycocoevalcap": "scores of captions (pip install 'git-caption[metrics]')",
    "datasets": "data sets of Hugging Face (pip install 'git-caption[datasets]')",
    "pyarrow": "Parquet files (pip install 'git-caption[parquet]')",
    "tensorboard": "report_to: tensorboard (pip install 'git-caption[tensorboard]')",
}
CONTAINERS = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
DRIVER = Path("/dev/nvidiactl")  # there where a driver of NVIDIA is loaded, and inside a container with --nv
CACHE_GIB = 20.0  # CLIP ViT-L/14 and a language model of 7 billion parameters in 16 bits
SHARED_MEMORY_GIB = 1.0  # processes that read pictures for training hand them over there
METEOR_SECONDS = 300.0  # it reads its tables for 10 s where the processor is free
GIB = 2**30


@dataclass
class Section:
    """facts: name → value. troubles: what would not work → why, and what to do."""

    facts: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)


def versions() -> Section:
    """The machine's name, Python, the system and the libraries."""
    section = Section({"machine": platform.node(), "git_caption": str(Path(__file__).resolve().parents[2])})
    section.facts |= {"Python": f"{platform.python_version()}, {sys.executable}", "system": platform.platform()}
    image = next((os.environ[name] for name in CONTAINERS if name in os.environ), None)
    section.facts["container"] = image or "none that says so"
    for name in (*NEEDED, *OPTIONAL):
        section.facts[name] = found = _version(name) or "not installed"
        if found == "not installed":
            section.troubles[OPTIONAL.get(name, "everything")] = f"{name} is not installed"
    return section


def processor() -> Section:
    """Cores and memory, as far as this process may use them."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    section = Section({"cores": f"{cores} of {os.cpu_count()}"})
    section.facts["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"
    section.facts["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "not set")
    return section


def gpus() -> Section:
    """GPUs as torch sees them; each computes a small product, which a build without its kernels cannot."""
    import torch

    section = Section({"CUDA of torch": torch.version.cuda or "none: a build for CPUs"})
    section.facts["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    section.facts["driver"] = f"{DRIVER} is there" if DRIVER.exists() else f"no {DRIVER}"
    if not torch.cuda.is_available():
        section.facts["GPUs"] = "none"
        section.troubles["computing on a GPU"] = _no_gpu(torch.version.cuda)
        return section
    for number in range(torch.cuda.device_count()):
        told = torch.cuda.get_device_properties(number)
        capability = f"compute capability {told.major}.{told.minor}"
        section.facts[f"GPU {number}"] = f"{told.name}, {told.total_memory / GIB:.1f} GiB, {capability}"
        try:
            product = torch.ones(8, 8, device=f"cuda:{number}") @ torch.ones(8, 8, device=f"cuda:{number}")
            assert product.sum().item() == 512
        except RuntimeError as error:
            section.troubles[f"computing on GPU {number}"] = reason(error)
    return section


def _no_gpu(cuda: str | None) -> str:
    """Why torch sees none."""
    import torch

    if cuda is None:
        return "this torch is a build for CPUs: install one for CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs: unset it"
    if not DRIVER.exists():
        return "there is no driver of NVIDIA here: no GPU, none asked for (--gpus of Slurm), or no --nv of Apptainer"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return reason(error)
    return "torch finds none"


def bits() -> Section:
    """8 and 4 bits of bitsandbytes, computed on a CPU and on the first GPU."""
    if (found := _version("bitsandbytes")) is None:
        return Section({"bitsandbytes": "not installed"})
    import torch
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn.modules import Linear8bitLt

    def eight(device: str) -> None:
        layer: Any = Linear8bitLt(64, 64, has_fp16_weights=False)
        layer.to(device)(torch.randn(1, 64, device=device))

    def four(device: str) -> None:
        quantize_4bit(torch.randn(64, 64, device=device))

    section = Section({"bitsandbytes": found})
    for device in ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu"]:
        for name, compute in {"8 bits": eight, "4 bits": four}.items():
            what = f"{name} on {device}"
            try:
                compute(device)
                section.facts[what] = "compute"
            except Exception as error:  # its native library fails in many ways
                section.facts[what] = "do not compute"
                section.troubles[what] = reason(error)
    return section


def java_programs() -> Section:
    """METEOR, run on one caption, and what SPICE needs."""
    section = Section()
    try:
        section.facts["java"] = java.require()
        with java.Meteor(METEOR_SECONDS) as meteor:
            score, _ = meteor.scores(["a red square"], [["a red square"]])
        section.facts["METEOR"] = f"runs (a caption against itself: {score:.2f})"
    except java.Unavailable as why:
        section.facts.setdefault("java", shutil.which("java") or "none on the PATH")
        section.facts["METEOR"] = "does not run"
        section.troubles["METEOR (the other scores are computed, with a tokenizer in Python)"] = str(why)
    try:
        java.require_spice()
        section.facts["SPICE"] = "has what it needs"
    except java.Unavailable as why:
        section.facts["SPICE"] = "does not run"
        section.troubles["SPICE (computed on request only)"] = str(why)
    return section


def space() -> Section:
    """Where caches and temporary files go, and whether something can be written there. Quotas do not show."""
    section = Section()
    folders = {
        "weights": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
        "this folder": Path.cwd(),
        "shared memory": Path("/dev/shm"),
    }
    for name, folder in folders.items():
        there = _there(folder)
        free = shutil.disk_usage(there).free / GIB
        writable = _writable(there)
        section.facts[name] = f"{folder}, {free:.1f} GiB free{'' if writable else ', read-only'}"
        if name == "weights" and not hub.is_offline():
            if not writable:
                section.troubles["fetching weights"] = f"nothing can be written to {folder}: set HF_HOME"
            elif free < CACHE_GIB:
                section.troubles["large models"] = f"{free:.1f} GiB are free in {folder}: set HF_HOME to a larger disk"
        if name == "temporary files" and not writable:
            section.troubles["scores by Java"] = f"nothing can be written to {folder}: set TMPDIR"
        if name == "shared memory" and free < SHARED_MEMORY_GIB:
            section.troubles["train.py with --num_workers"] = f"{folder} has {free:.2f} GiB: use --num_workers 0"
    held = len(list(cache_folder().glob("models--*")))
    section.facts["repositories in the cache"] = str(held)
    section.facts["requests to the hub"] = "forbidden by HF_HUB_OFFLINE" if hub.is_offline() else "allowed"
    if hub.is_offline() and not held:
        section.troubles["weights by name"] = (
            f"HF_HUB_OFFLINE forbids requests, and nothing is in {cache_folder()}: set HF_HOME to the folder that "
            "'prefetch' filled; in a container, bind it"
        )
    section.facts["HF_TOKEN"] = "set" if os.environ.get("HF_TOKEN") else "not set"
    return section


def launcher() -> Section:
    """What Slurm, torchrun or mpirun say about this process."""
    section = Section(processes.launched_with())
    if not section.facts:
        section.facts["variables"] = "none: this process was started by hand"
        return section
    try:
        section.facts["so this is"] = f"rank {processes.rank()} of {processes.world_size()}"
        processes.as_torchrun()
    except UsageError as error:
        section.troubles["running as one of several processes"] = str(error)
        return section
    asked = section.facts.get("SLURM_NTASKS", "1")
    if asked != "1" and processes.world_size() == 1:
        section.troubles[f"sharing work among the {asked} tasks of the job"] = (
            "this is one process outside of a step: start it with srun"
        )
    return section


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _there(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _writable(folder: Path) -> bool:
    """Tried, as permissions alone do not show a read-only file system or a full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"-")
    except OSError:
        return False
    return True
