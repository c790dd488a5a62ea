"""The folder of an unfinished run: what it was begun with, and for each shard a log and images.

NAME.download/manifest.json           what must stay the same until the end
NAME.download/0-of-1/status.jsonl     a line for each address fetched
NAME.download/0-of-1/00000.blob ...   images, where they are no files of their own
NAME.download/0-of-1/ended            once every address of the shard has a line
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from git_caption.downloads.survey import Shard
from git_caption.errors import UsageError
from git_caption.tsv.writer import sync_folder, write_atomically

LOG = "status.jsonl"
ENDED = "ended"


@dataclass(frozen=True)
class Output:
    """The names of what a list becomes: everything begins with `NAME` in one folder."""

    folder: Path
    name: str

    @property
    def status(self) -> Path:
        """The status rows in the order of the list, once a run is complete."""
        return self.folder / f"{self.name}.status.jsonl"

    @property
    def summary(self) -> Path:
        """What the last complete run was told, and what came of it."""
        return self.folder / f"{self.name}.status.json"

    @property
    def images(self) -> Path:
        """The folder of image files, or of tars."""
        return self.folder / self.name

    @property
    def work(self) -> Path:
        """The folder of an unfinished run."""
        return self.folder / f"{self.name}.download"

    def tsv(self, kind: str) -> Path:
        """`NAME.img.tsv` or `NAME.caption.tsv`."""
        return self.folder / f"{self.name}.{kind}.tsv"

    @property
    def captions(self) -> Path:
        """The table of image files and captions."""
        return self.folder / f"{self.name}.captions.jsonl"


def begin(output: Output, manifest: Mapping[str, Any], shard: Shard) -> Path:
    """Make the work folder of a shard, or go on in it; gives that of the shard.

    Raises:
        UsageError: the run there, or the complete one, was begun with something else.
    """
    summary = read_json(output.summary)
    if summary is not None:
        kept = {name: value for name, value in summary["manifest"].items() if name not in ("shards", "retry")}
        compare(kept, manifest, output.summary)
    path = output.work / "manifest.json"
    begun = read_json(path)
    if begun is None:
        output.work.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(manifest, indent=1).encode())
    else:
        compare(begun, manifest, output.work)
    folder = output.work / str(shard)
    folder.mkdir(exist_ok=True)
    return folder


def read_json(path: Path) -> dict[str, Any] | None:
    """What is in a file of ours; None where it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found


def compare(earlier: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """See that a run is the same as an earlier one.

    Raises:
        UsageError: it is not; names what differs.
    """
    differing = [name for name, value in earlier.items() if now[name] != value]
    if differing:
        told = ", ".join(f"{name} {earlier[name]!r} (now {now[name]!r})" for name in differing)
        raise UsageError(f"{where}: a run was begun with {told}; give the same, or another 'output_dir'")


def shards(work: Path, count: int) -> list[Path]:
    """The folders of all shards, whether they are there or not."""
    return [work / str(Shard(index, count)) for index in range(count)]


def end_shard(folder: Path) -> None:
    """Note that every address of the shard has its line."""
    (folder / ENDED).touch()
    sync_folder(folder)


def all_ended(work: Path, count: int) -> bool:
    """Whether all shards have ended."""
    return all((folder / ENDED).exists() for folder in shards(work, count))


def remove(work: Path) -> None:
    """Remove the folder of a run that is complete; at once, so that a kill leaves nothing that looks unfinished."""
    over = work.with_name(f"{work.name}.over")
    shutil.rmtree(over, ignore_errors=True)
    os.replace(work, over)
    shutil.rmtree(over, ignore_errors=True)
