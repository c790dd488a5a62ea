"""The fingerprint tells captioners apart that may say different things: resuming a run relies on it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from git_caption.captioner.captioner import Captioner
from git_caption.captioner.fingerprint import fingerprint
from git_caption.params.pretrained import PretrainedConfig
from tests import hub_cache
from tests.captioner.legacy.test_git_tool import old_file
from tests.captioner.test_checkpoint import with_frozen_parts

CONFIG = PretrainedConfig("blip")
FILES = ("config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "qformer_tokenizer/vocab.txt")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A part in a folder of its own, which happens to have the name of one in the hub's cache."""
    path = tmp_path / "snapshots" / "part"
    for name in (*FILES, "model.safetensors", "README.md"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def test_every_file_that_describes_a_part_counts_by_its_content(folder, tmp_path):
    first = fingerprint(CONFIG, [folder])
    assert fingerprint(CONFIG, [shutil.copytree(folder, tmp_path / "copied")]) == first  # with their times
    for name in FILES:
        (folder / name).write_text("another")
        assert fingerprint(CONFIG, [folder]) != first, name
        (folder / name).write_text(name)
        assert fingerprint(CONFIG, [folder]) == first, name
    (folder / "README.md").write_text("another")
    assert fingerprint(CONFIG, [folder]) == first


def test_weights_in_a_folder_count_by_size_and_time(folder):
    first = fingerprint(CONFIG, [folder])
    os.utime(folder / "model.safetensors", ns=(0, 5))
    second = fingerprint(CONFIG, [folder])
    (folder / "model.safetensors").write_text("longer than it was")
    os.utime(folder / "model.safetensors", ns=(0, 5))
    assert len({first, second, fingerprint(CONFIG, [folder])}) == 3


def test_weights_in_the_hubs_cache_count_by_their_content(folder, tmp_path):
    here, there = (hub_cache.snapshot(tmp_path / name, "org/model", folder) for name in ("here", "there"))
    os.utime(there / "model.safetensors", ns=(0, 5))
    first = fingerprint(CONFIG, [here])
    assert fingerprint(CONFIG, [there]) == first
    (folder / "model.safetensors").write_text("model.safetensorz")
    assert fingerprint(CONFIG, [hub_cache.snapshot(tmp_path / "other", "org/model", folder)]) != first


def test_what_is_said_beside_a_file_of_clip_weights_counts(tmp_path):
    file = tmp_path / "open_clip_model.safetensors"
    file.write_text("weights")
    prints = {fingerprint(CONFIG, [file])}
    for content in ("{}", '{"quick_gelu": true}'):
        (tmp_path / "open_clip_config.json").write_text(content)
        prints.add(fingerprint(CONFIG, [file]))
    (tmp_path / "captions.json").write_text("[]")  # a file among others in somebody's folder
    assert fingerprint(CONFIG, [file]) in prints and len(prints) == 3


def test_a_frozen_language_model_with_another_config_is_noticed(make_captioner, language_models, tmp_path):
    folder = shutil.copytree(language_models["gpt2"], tmp_path / "lm")
    with_frozen_parts(make_captioner(), folder, tmp_path).save(tmp_path / "model")
    first = Captioner.load(tmp_path / "model").fingerprint
    assert Captioner.load(tmp_path / "model").fingerprint == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    assert Captioner.load(tmp_path / "model").fingerprint != first


def test_the_tokenizer_of_an_old_file_is_noticed(make_captioner, language_models, tmp_path):
    folder = shutil.copytree(language_models["gpt2"], tmp_path / "lm")
    old_file(tmp_path / "model.pt", make_captioner())
    first = Captioner.load(tmp_path / "model.pt", language_model=str(folder)).fingerprint
    assert Captioner.load(tmp_path / "model.pt", language_model=str(folder)).fingerprint == first
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}}))
    assert Captioner.load(tmp_path / "model.pt", language_model=str(folder)).fingerprint != first
