"""docs/migration.md: every line that it says is taken here is taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from git_caption.downloads.main import parse_command as parse_download
from git_caption.errors import UsageError
from git_caption.jobs.table import JOBS
from git_caption.params.literal import parse_literal
from git_caption.params.schema import faults
from git_caption.training.command import parse_command

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
ROWS = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
TAKEN = [
    line
    for old, here in (row for row in ROWS if len(row) == 2)
    for line in re.findall(r"`((?:python3? |torchrun )[^`]+)`", f"{here} {old if here.startswith('the same') else ''}")
]
NOT_HERE = re.compile(r"no such|missing key 'data'|checkpoint directory|'res_file'|'label_file'")


def test_lines_are_found():
    assert sum("train.py" in line for line in TAKEN) > 5
    assert sum("inference.py" in line for line in TAKEN) > 5
    assert sum("download.py" in line for line in TAKEN) > 1


@pytest.mark.parametrize("line", [line for line in TAKEN if "train.py" in line])
def test_lines_of_training_lack_nothing_but_their_files(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("coco_train", "instagram_data"):
        Path(folder).mkdir()
    try:
        parse_command(shlex.split(line.split("train.py", 1)[1]))
    except UsageError as error:
        assert [fault for fault in str(error).splitlines() if not NOT_HERE.search(fault)] == []


@pytest.mark.parametrize("line", [line for line in TAKEN if "download.py" in line])
def test_lines_of_downloads_are_taken(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("DIR").mkdir()
    parse_download(shlex.split(line.split("download.py", 1)[1]))


@pytest.mark.parametrize("line", [line for line in TAKEN if "inference.py" in line and "..." not in line])
def test_lines_of_inference_lack_nothing_but_their_files(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = parse_literal(shlex.split(line)[-1], "-p")
    found = faults(JOBS[told.pop("type")].load_params(), told, "-p")
    assert [fault for fault in found if not NOT_HERE.search(fault)] == []
