"""configs/: every file is a run that lacks nothing but its data and weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from git_caption.errors import UsageError
from git_caption.training.command import parse_command

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("*/train.yaml")])
NOT_HERE = re.compile(r"no such|checkpoint directory")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_lacks_nothing_but_its_files(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        parse_command(["--config", str(config)])
    except UsageError as error:
        assert [fault for fault in str(error).splitlines() if not NOT_HERE.search(fault)] == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_first_what_it_is(config):
    assert config.read_text().startswith("# ")
