"""What README and docs tell a reader to type: the commands run, the links lead somewhere, the tables match the code.

A `bash` or `python` block is run, the blocks of one section in one shell and folder, unless the line before it says
`<!-- not run: REASON -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from git_caption.jobs.table import JOBS
from git_caption.params.literal import parse_literal
from git_caption.params.schema import describe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "data" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    reason: str | None  # why it is not run


def sections(text: str) -> dict[str, list[Block]]:
    """Heading -> its fenced blocks."""
    found: dict[str, list[Block]] = {}
    headings = [(0, "")] + [
        (match.start(), match[1]) for match in HEADING.finditer(BLOCK.sub(lambda m: "." * len(m[0]), text))
    ]
    for match in BLOCK.finditer(text):
        title = max(heading for heading in headings if heading[0] <= match.start())[1]
        found.setdefault(title, []).append(Block(match["language"], match["code"], match["reason"]))
    return found


def read(document: Path) -> dict[str, list[Block]]:
    return sections(document.read_text(encoding="utf-8"))


def runnable(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.language in ("bash", "python") and block.reason is None]


RUNNABLE = [
    pytest.param(runnable(blocks), id=f"{document.relative_to(ROOT)}: {title}")
    for document in DOCUMENTS
    for title, blocks in read(document).items()
    if runnable(blocks)
]


def test_blocks_are_found_with_their_headings_and_reasons() -> None:
    text = "# A\n```bash\n# no heading\nls\n```\n\n## B\n<!-- not run: because -->\n```bash\nrm\n```\n```\nshown\n```\n"
    assert sections(text) == {
        "A": [Block("bash", "# no heading\nls\n", None)],
        "B": [Block("bash", "rm\n", "because"), Block("", "shown\n", None)],
    }
    assert runnable(sections(text)["B"]) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a clone looks, where what commands write does not land in this one."""
    for name in ("inference.py", "train.py", "git_caption", "data", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("python", "python3"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("blocks", RUNNABLE)
def test_commands_run_as_written(blocks: list[Block], folder: Path) -> None:
    script = "\n".join(
        block.code if block.language == "bash" else f"python3 - <<'END OF PYTHON'\n{block.code}END OF PYTHON\n"
        for block in blocks
    )
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"`make (\w+)`|^(?:\w+=\S+ )?make (\w+)$", document.read_text(), flags=re.MULTILINE)
    assert {name for pair in named for name in pair if name} <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        linked = document.parent / name if name else document
        assert linked.exists(), target
        if anchor:
            titles = HEADING.findall(linked.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert re.findall(r"@@\w+@@|\bTODO\b", document.read_text(encoding="utf-8")) == []


def test_the_jobs_of_the_readme_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == [(name, job.summary) for name, job in JOBS.items()]


def test_the_keys_of_each_job_are_those_it_takes() -> None:
    text = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    documented = {name: keys for name, keys in re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE)}
    assert documented == {
        name: " ".join(
            f"**`{row.name}`**" if row.required else f"`{row.name}`"
            for row in describe(job.load_params())
            if not row.group
        )
        for name, job in JOBS.items()
    }


@pytest.mark.parametrize("group", ["model", "decoding", "running"])
def test_the_shared_keys_are_those_the_jobs_take(group: str) -> None:
    text = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    section = text.split(f"## {group.capitalize()} keys\n\n")[1].split("\n\n")[0]
    names = [row.name for row in describe(JOBS["test_git_inference_single_tsv"].load_params()) if row.group == group]
    assert [name for name in re.findall(r"`(\w+)`", section) if name not in JOBS] == names


COMMANDS = [
    pytest.param(literal, id=f"{document.relative_to(ROOT)}: {title} {number}")
    for document in DOCUMENTS
    for title, blocks in read(document).items()
    for number, literal in enumerate(re.findall(r'-p "(\{.*?\})"', "".join(block.code for block in blocks), re.DOTALL))
]


@pytest.mark.parametrize("literal", COMMANDS)
def test_commands_that_are_not_run_name_known_keys(literal: str) -> None:
    given = parse_literal(literal.replace("\\\n", ""), "-p")
    rows = describe(JOBS[given.pop("type")].load_params())
    assert given.keys() <= {row.name for row in rows}
    assert {row.name for row in rows if row.required} <= given.keys()
