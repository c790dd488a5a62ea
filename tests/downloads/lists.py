"""Lists of addresses, runs over them, and what they left, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from git_caption.downloads.main import main

QUICK = ("--allow_private", "--backoff", "0.05", "--num_workers", "1", "--per_host", "64")
UNDECODED = ("--decode", "False")  # spares the start of a worker process


def write_list(folder: Path, urls: Sequence[str], name: str = "list.jsonl") -> Path:
    """A JSONL with captions `caption 0` and so on."""
    path = folder / name
    entries = [{"url": url, "caption": f"caption {number}"} for number, url in enumerate(urls)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def run(path: Path, *flags: str) -> Path:
    """Download a list as a user would; gives the folder beside it."""
    assert main(["--list", str(path), *QUICK, *flags]) == 0
    return path.parent / path.stem


def status_of(folder: Path, name: str = "list") -> list[dict[str, Any]]:
    """The status rows of a complete run."""
    return [json.loads(line) for line in (folder / f"{name}.status.jsonl").read_text().splitlines()]


def causes_of(folder: Path) -> list[str]:
    return [row["cause"] for row in status_of(folder)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, of status rows without their seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.endswith(".status.jsonl"):
                rows = [{**json.loads(line), "seconds": 0} for line in data.splitlines()]
                data = json.dumps(rows).encode()
            found[str(path.relative_to(folder))] = data
    return found
