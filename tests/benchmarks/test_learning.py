"""The learning table on parts and rows that take a second each: what is made once, run once, and written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import learning
from benchmarks.families.parts import LANGUAGE_MODELS, PARTS
from benchmarks.families.recipe import PART, Recipe
from benchmarks.families.rows import FAMILIES, ROWS
from benchmarks.families.styles import COUNTED, accuracy_in_style
from git_caption.params.schema import faults
from git_caption.params.training.run import TrainingParams
from git_caption.tsv.rows import CaptionRow
from git_caption.tsv.writer import TsvWriter

SMALL = {
    "n_positions": 256,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "model_type": "gpt2",
}
HASTE = {"epochs": 0.5, "bs": 8, "warmup_steps": 1, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def parts() -> dict[str, Recipe]:
    """The real ones, in small and in haste."""

    def small(name: str) -> Recipe:
        recipe = PARTS[name]
        if name == "scenes":
            return Recipe(recipe.by, {**recipe.keys, "train": 32, "test": 4})
        if recipe.by == "extract_features":
            return Recipe(recipe.by, {**recipe.keys, "device": "cpu", "num_workers": 0})
        keys = {**recipe.keys, **HASTE}
        if name in LANGUAGE_MODELS:
            keys["language_model"] = {"name": name, "architecture": SMALL}
        return Recipe(recipe.by, keys)

    return {name: small(name) for name in ("scenes", "resnet", "resnet_grid", "resnet_pooled", "gpt2")}


def _run(row: str, folder: Path, parts, seed=0, **changes) -> str:
    """The table after a run of one row, with other keys where asked."""

    def call(function, *arguments):
        return function(*arguments)

    found = ROWS[row]
    keys = {**found.keys, **HASTE, "decoding": {"num_beams": 1, "max_new_tokens": 4}, **changes}
    rows = {row: dataclasses.replace(found, keys=keys)}
    shop, results = learning.Workshop(folder, parts, call), folder / "results.jsonl"
    learning.run(rows, seed, rows, shop, results)
    return learning.rendered(rows, learning.current(rows, shop, results))


def test_a_row_is_made_of_shared_parts_and_run_once(parts, tmp_path, monkeypatch):
    runs = []
    measured = learning.measured
    monkeypatch.setattr(learning, "measured", lambda *told: runs.append(told[-1].name) or measured(*told))
    text = _run("git", tmp_path, parts)
    assert len(runs) == 1
    made = {path.name.split("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"scenes", "resnet", "resnet_grid", "gpt2", "git"}
    assert _run("git", tmp_path, parts) == text and len(runs) == 1

    line = json.loads((tmp_path / "results.jsonl").read_text())
    scores = json.loads(next(tmp_path.glob("git-0-*/scores/scores.json")).read_text())
    assert line["scores"] == scores and line["seed"] == 0
    assert list(line["parts"]) == ["scenes", "resnet", "resnet_grid", "gpt2"]
    assert 0 < line["trained"] < line["parameters"]
    (row,) = _lines(text, "git")
    assert row[:3] == [f"{value:.1f}" for value in scores["attribute accuracy"].values()]

    _run("git", tmp_path, parts, lr=5e-4)
    assert len(runs) == 2  # what a result was got with has changed
    both = _run("git", tmp_path, parts, lr=5e-4, seed=1)
    assert len(runs) == 3
    assert [row[-1] for row in _lines(both, "git")] == ["0", "1"]  # and not the first one's
    assert len({path for path in tmp_path.iterdir() if path.name.startswith("gpt2-")}) == 1


def _lines(text: str, row: str) -> list[list[str]]:
    """The numbers in a row's lines of the table."""
    begin = f"| {ROWS[row].parts} | {ROWS[row].trained} | "
    return [line.removeprefix(begin).strip("| ").split(" | ") for line in text.splitlines() if line.startswith(begin)]


def test_a_row_that_was_stopped_among_the_scores_is_not_trained_again(parts, tmp_path, monkeypatch):
    def stopped(params):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learning, "evaluate", stopped)
        _run("clipcap", tmp_path, parts)
    monkeypatch.setattr(learning, "train", stopped)
    text = _run("clipcap", tmp_path, parts)
    assert "## 2. ClipCap" in text
    (row,) = _lines(text, "clipcap")
    assert row[3:6] == ["-"] * 3  # it learns no answers


def test_captions_of_another_style_count_as_wrong(tmp_path):
    right, other = "one object: a small star in red at the center.", "a small red star in the center."
    scene = {"shape": "star", "color": "red", "size": "small", "place": "center"}
    with TsvWriter(tmp_path / "said.tsv") as said, TsvWriter(tmp_path / "scenes.tsv") as scenes:
        for key, caption in (("a", right), ("b", other), ("c", right.replace("red", "blue")), ("d", "one object: a")):
            said.write(CaptionRow(key, (caption,)).columns())
            scenes.write([key, json.dumps({"objects": [scene]})])
    found = accuracy_in_style(tmp_path / "said.tsv", tmp_path / "scenes.tsv", COUNTED)
    assert found == pytest.approx(100 * (1 + 0 + 0.75 + 0) / 4)


def test_every_row_has_a_family_and_keys_that_train_py_takes(tmp_path):
    assert len(ROWS) <= 30
    assert {row.family for row in ROWS.values()} == set(FAMILIES)
    assert [row.family for row in ROWS.values() if row.whole] == list(FAMILIES)
    for name, row in ROWS.items():
        named = set(PART.findall(json.dumps(row.keys))) - {"here"}
        assert named <= set(PARTS), name
        learning.Workshop(tmp_path, PARTS, None).digest(row.keys)
        filled = json.loads(PART.sub(lambda found: str(tmp_path / found[1]), json.dumps(row.keys)))
        assert not faults(TrainingParams, filled, name, [str(tmp_path)])
