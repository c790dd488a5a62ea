"""Runs told by their keys: what is made from the same keys is made once, and kept under their digest."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from git_caption.errors import JobFailed
from git_caption.jobs.table import find
from git_caption.params.schema import parse
from git_caption.params.training.run import TrainingParams
from git_caption.training.run import train

PART = re.compile(r"\$(\w+)")
TRAIN = "train"
DONE = "done.json"

Keys = Mapping[str, Any]
Call = Callable[..., Any]


@dataclass(frozen=True)
class Recipe:
    """A run of train.py, a job by its name or a function, with its keys.

    In a text among the keys `$name` stands for the folder of the part of that name, `$here` for the recipe's own.
    """

    by: str | Callable[..., None]
    keys: Keys


@dataclass(frozen=True)
class Made:
    """A part that is there: its folder, the seconds that making it took and how many parameters were trained."""

    folder: Path
    seconds: float
    trained: int | None


class Workshop:
    """Makes parts when they are asked for, in `folder`, and what they are made from before them."""

    def __init__(self, folder: Path, parts: Mapping[str, Recipe], call: Call) -> None:
        """`call(function, *arguments)` calls it, here or in another process."""
        self.folder = folder.resolve()
        self.parts = parts
        self.call = call

    def made(self, name: str) -> Made:
        """The part, made now where it has not been."""
        recipe, folder = self.parts[name], self._folder(name)
        if not (folder / DONE).exists():
            keys = self.keys(recipe.keys, folder)
            print(f"{name}: made in {folder}", flush=True)
            self.call(make, recipe.by, keys, folder)
        return Made(folder, **json.loads((folder / DONE).read_text()))

    def keys(self, keys: Keys, here: Path) -> dict[str, Any]:
        """Keys with the folders of parts in them; the parts are made."""
        filled: dict[str, Any] = _filled(keys, lambda name: str(here if name == "here" else self.made(name).folder))
        return filled

    def digest(self, keys: Keys) -> str:
        """Of keys, and of the keys of all parts that they name."""
        filled = _filled(keys, lambda name: name if name == "here" else self.digest(self.parts[name].keys))
        return hashlib.sha256(json.dumps(filled, sort_keys=True).encode()).hexdigest()[:12]

    def all_made(self, keys: Keys) -> dict[str, Made]:
        """The parts that keys name, and those that these name, each after what it is made from."""
        found: dict[str, Made] = {}
        for name in PART.findall(json.dumps(keys)):
            if name != "here":
                found |= {**self.all_made(self.parts[name].keys), name: self.made(name)}
        return found

    def _folder(self, name: str) -> Path:
        return self.folder / f"{name}-{self.digest(self.parts[name].keys)}"


def make(by: str | Callable[..., None], keys: Keys, folder: Path) -> None:
    """Do what a recipe says, and note in `folder` that it is done."""
    trained = None
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with logged(folder / "log.txt"):
        if by == TRAIN:
            trained = train(parse(TrainingParams, keys, folder.name)).trained_parameters
            seconds = journal_seconds(folder)
        else:
            if callable(by):
                by(**keys)
            else:
                job = find(by)
                job.load_function()(parse(job.load_params(), keys, by))
            seconds = round(time.perf_counter() - began, 1)
    (folder / DONE).write_text(json.dumps({"seconds": seconds, "trained": trained}) + "\n")


def journal_seconds(folder: Path) -> float:
    """How long a training run has taken, all its parts together where it was stopped and went on."""
    with open(folder / "journal.csv", newline="", encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Inside, what is printed goes to a file: the table alone is to go to the terminal."""
    with open(path, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def in_own_process(function: Call, *arguments: Any) -> Any:
    """Call a function in a process of its own, so that its peak memory is its own too.

    Raises what the function raises, and JobFailed if the process dies. What ends this process stops that one.
    """
    sys.stdout.flush()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        value, error = ours.recv()
    except EOFError as ended:
        process.join()
        raise JobFailed(f"the process of {function.__name__} ended with {process.exitcode}") from ended
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    if error is not None:
        raise error
    return value


def _send(theirs: Connection, function: Call, arguments: Sequence[Any]) -> None:
    try:
        theirs.send((function(*arguments), None))
    except Exception as error:
        theirs.send((None, error))


def _filled(value: Any, folder: Callable[[str], str]) -> Any:
    match value:
        case str():
            return PART.sub(lambda found: folder(found[1]), value)
        case Mapping():
            return {key: _filled(item, folder) for key, item in value.items()}
        case list() | tuple():
            return [_filled(item, folder) for item in value]
    return value
