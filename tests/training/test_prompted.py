"""Prompted style transfer: a base captioner's caption stands before the one that is trained, and before the one made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError
from git_caption.jobs.main import main as inference
from git_caption.jobs.shapes import make
from git_caption.params.model import PromptConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.params.training.prompting import TEMPLATE
from git_caption.training.main import main, parse_command
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_caption_row
from tests.small_captioner import small_captioner

TOKENS = {"max_new_tokens": 6, "num_beams": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Sixteen scenes and the captioner that a run goes on from."""
    home = tmp_path_factory.mktemp("home")
    make(ShapesDataParams(out_dir=str(home / "scenes"), train=16, test=4))
    captioner = small_captioner(home / "gpt2")
    captioner.config = replace(captioner.config, prompt=PromptConfig(question="{question}?"))
    captioner.save(home / "plain")
    return home


def told(home: Path, out: Path, *flags: str) -> list[str]:
    return [
        *("--init_from", str(home / "plain"), "--image_tsv", str(home / "scenes/train.img.tsv")),
        *("--caption_tsv", str(home / "scenes/train.caption.tsv"), "--output_dir", str(out), "--bs", "8"),
        *("--lr", "1e-3", "--warmup_steps", "0", "--device", "cpu", "--num_workers", "0", *flags),
    ]


def captions(path: Path) -> list[str]:
    with TsvFile(path) as rows:
        return [parse_caption_row(columns, rows.where(row)).captions[0] for row, columns in enumerate(rows)]


def job(**keys) -> int:
    return inference(["-p", json.dumps({"device": "cpu", "num_workers": 0, **TOKENS, **keys})])


@pytest.fixture(scope="module")
def styled(home) -> Path:
    """A checkpoint trained after the base captioner's captions."""
    out = home / "runs" / "styled"
    assert main(told(home, out, "--prompted", "--tune", "full", "--val_image_tsv", str(home / "scenes/test.img.tsv"),
                     "--val_caption_tsv", str(home / "scenes/test.caption.tsv"))) == 0
    return out


def test_base_captions_are_those_of_the_captioner_before_the_run(home, styled):
    found = sorted((home / "runs" / "base_captions").glob("*.tsv"), key=lambda path: len(captions(path)))
    assert [len(captions(path)) for path in found] == [4, 16]
    base = Captioner.load(home / "plain", device="cpu")
    with TsvFile(home / "scenes/test.img.tsv") as rows:
        pictures = [__import__("base64").b64decode(columns[1]) for columns in rows]
    assert captions(found[0]) == base.caption(pictures)
