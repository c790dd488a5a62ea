"""The arrows between the rooms of the package: read from the code, held against one table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "git_caption"

# Room -> the rooms it may import. Something that fits two rooms belongs in the lower one.
TABLE: dict[str, frozenset[str]] = {
    room: frozenset(allowed.split())
    for room, allowed in {
        "errors": "",
        "command_line": "errors",
        "params": "errors",
        "processes": "errors",
        "tsv": "errors",
        "images": "errors",
        "metrics": "errors",
        "shapes": "errors",
        "text": "errors params",
        "model": "errors params",
        "samples": "errors params tsv images text shapes",
        "decoding": "errors params text model",
        "captioner": "errors params images text model decoding",
        "pipeline": "errors params processes tsv images samples captioner",
        "downloads": "errors command_line params processes tsv images",
        "report": "errors tsv images metrics",
        "training": "errors command_line params processes tsv images samples text model decoding captioner pipeline"
        " metrics report shapes",
        "jobs": "errors command_line params processes tsv images metrics shapes text model samples decoding captioner"
        " pipeline downloads report",
        "web": "errors params images captioner pipeline report",
    }.items()
}

# A module named in a string is an import too: the jobs' table, importlib.
DOTTED = re.compile(r"(git_caption(?:\.\w+)+)(?::\w+)?")


def imported(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of git_caption that a module imports, wherever in it that stands."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=source, names=names, level=level):
                start = ".".join([*module.split(".")[:-level], *filter(None, [source])]) if level else source or ""
                # `from git_caption import tsv` imports the room, not the root.
                inside = start == "git_caption"
                found = [f"{start}.{alias.name}" if inside else start for alias in names]
            case ast.Constant(value=str(text)) if named := DOTTED.fullmatch(text):
                found = [named[1]]
            case _:
                continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == "git_caption")


def violations(package: Path) -> list[str]:
    """Every import that the table does not allow, as `file:line: what`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts == ("git_caption", "__init__"):
            continue
        room = parts[1]
        where = path.relative_to(package.parent)
        if room not in TABLE:
            found.append(f"{where}: the room {room!r} is not in the table")
            continue
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), ".".join(parts)):
            target = name.partition(".")[2].partition(".")[0]
            if target not in TABLE:
                found.append(f"{where}:{line}: imports {name}, which is no room")
            elif target != room and target not in TABLE[room]:
                found.append(f"{where}:{line}: {room} may not import {target}")
    return found


def test_every_import_follows_the_table() -> None:
    assert violations(PACKAGE) == []


def test_table_has_no_cycle() -> None:
    placed: set[str] = set()
    while ready := {room for room in TABLE if room not in placed and TABLE[room] <= placed}:
        placed |= ready
    assert placed == set(TABLE)


def test_the_architecture_page_has_the_rooms_that_exist_and_their_arrows() -> None:
    rooms = {
        path.stem for path in PACKAGE.iterdir() if (path.is_dir() and any(path.glob("*.py"))) or path.suffix == ".py"
    }
    rooms.remove("__init__")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    documented = {room: may for room, may in re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", page, flags=re.MULTILINE)}
    assert documented.keys() == rooms
    for room, may in documented.items():
        named = rooms - {"training", room} if may == "all but training" else set(may.split(", ")) - {"nothing of ours"}
        assert named == TABLE[room] & rooms, room


@pytest.mark.parametrize(
    ("file", "code", "seen"),
    [
        ("tsv/file.py", "import git_caption.jobs.main", ["git_caption/tsv/file.py:1: tsv may not import jobs"]),
        ("tsv/file.py", "def f():\n    from git_caption.text import prompts", [":2: tsv may not import text"]),
        ("tsv/file.py", "if TYPE_CHECKING:\n    from git_caption import model", [":2: tsv may not import model"]),
        ("tsv/file.py", "from ..images import decode", [":1: tsv may not import images"]),
        ("tsv/file.py", "from .. import web", [":1: tsv may not import web"]),
        ("tsv/__init__.py", "from ..images import decode", [":1: tsv may not import images"]),
        ("tsv/file.py", "JOB = 'git_caption.jobs.infer:single_tsv'", [":1: tsv may not import jobs"]),
        ("tsv/file.py", "import git_caption", [":1: imports git_caption, which is no room"]),
        ("tsv/file.py", "from git_caption import Captioner", [":1: imports git_caption.Captioner, which is no room"]),
        ("jobs/train.py", "from git_caption.training import loop", [":1: jobs may not import training"]),
        ("errors.py", "import git_caption.params", ["git_caption/errors.py:1: errors may not import params"]),
        ("utils.py", "", ["git_caption/utils.py: the room 'utils' is not in the table"]),
        ("tsv/file.py", "import os\nfrom git_caption.errors import DataError\nfrom .rows import dumps", []),
        ("jobs/table.py", "JOBS = {'a': 'git_caption.jobs.infer:single_tsv'}", []),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, code: str, seen: list[str]) -> None:
    path = tmp_path / "git_caption" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    found = violations(tmp_path / "git_caption")
    assert len(found) == len(seen)
    assert all(line.endswith(end) for line, end in zip(found, seen, strict=True)), found


def test_the_package_root_offers_the_captioner_as_such_and_for_batches_and_imports_nothing_at_once() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    offered = {"git_caption.captioner.captioner", "git_caption.pipeline.caption_batches"}
    assert {name for _, name in imported(tree, "git_caption.__init__")} == offered
    code = "import sys, git_caption; assert {m for m in sys.modules if m.startswith('git_caption')} == {'git_caption'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_help_needs_imports_no_heavy_library() -> None:
    light = [
        PACKAGE / "errors.py",
        PACKAGE / "command_line.py",
        PACKAGE / "training" / "main.py",
        PACKAGE / "downloads" / "main.py",
    ]
    light += [PACKAGE / "jobs" / "main.py", PACKAGE / "jobs" / "table.py"]
    light += sorted((PACKAGE / "params").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in light]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {"torch", "transformers", "open_clip", "numpy"} & set(run.stdout.split()) == set()
