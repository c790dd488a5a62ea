"""Remakes the lock files beside this one from pyproject.toml and torch.in: `uv run --no-project requirements/lock.py`.

Pins already locked are kept where they still fit; arguments go to `uv pip compile`, for example `--upgrade` or
`--upgrade-package pillow`. One resolution for Python 3.11 to 3.13 on Linux and macOS is split into four files:
torch.lock (left out where `TORCH_INDEX` names another build), base.lock, extras.lock (what some runs need: peft,
datasets, TensorBoard) and dev.lock (tests and checks).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("torch", "base", "extras", "dev")
BASE = ["8bit", "metrics"]
EXTRAS = [*BASE, "datasets", "lora", "tensorboard"]
TORCH_FAMILY = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")


def compile_lock(extras: list[str], arguments: list[str]) -> dict[str, str]:
    """Resolve pyproject.toml with these extras; gives each package's lines with their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "all.lock"  # uv keeps the pins it finds in its output file
        output.write_text("".join(path.read_text() for name in NAMES if (path := HERE / f"{name}.lock").exists()))
        command = ["uv", "pip", "compile", "pyproject.toml", "requirements/torch.in", "--output-file", str(output)]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
        command += ["--no-header", "--no-annotate", "--no-emit-index-url"]
        command += [f"--extra={extra}" for extra in extras]
        subprocess.run([*command, *arguments], cwd=HERE.parent, check=True)
        entries = re.split(r"^(?=\S)", output.read_text(), flags=re.MULTILINE)[1:]
    packages: dict[str, str] = {}
    for entry in entries:  # a package may have several, for several versions of Python
        name = entry.split("==")[0]
        packages[name] = packages.get(name, "") + entry
    return packages


def main() -> None:
    """Resolve with all extras and with fewer, and deal each package out to the first file that needs it."""
    everything = compile_lock(["dev"], sys.argv[1:])
    base, extras = compile_lock(BASE, sys.argv[1:]), compile_lock(EXTRAS, sys.argv[1:])
    locks: dict[str, list[str]] = {name: [] for name in NAMES}
    for package, entry in everything.items():
        locks[_lock_of(package, base, extras)].append(entry)
    for name, entries in locks.items():
        (HERE / f"{name}.lock").write_text("# Made by requirements/lock.py; do not edit.\n" + "".join(entries))


def _lock_of(package: str, base: Collection[str], extras: Collection[str]) -> str:
    if TORCH_FAMILY.fullmatch(package):
        return "torch"
    return "base" if package in base else "extras" if package in extras else "dev"


if __name__ == "__main__":
    main()
