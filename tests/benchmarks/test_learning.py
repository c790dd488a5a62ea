"""The learning table on parts and rows that take a second each: what is made once, run once, and written."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import learning
from benchmarks.families.parts import LANGUAGE_MODELS, PARTS
from benchmarks.families.recipe import PART, Recipe
from benchmarks.families.rows import FAMILIES, ROWS, Row
from git_caption.params.schema import faults
from git_caption.params.training.run import TrainingParams

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


def _row(name: str) -> Row:
    row = ROWS[name]
    return dataclasses.replace(row, keys={**row.keys, **HASTE, "decoding": {"num_beams": 1, "max_new_tokens": 4}})


def _run(rows, folder, parts, seed=0) -> str:
    def call(function, *arguments):
        return function(*arguments)

    learning.write_table(rows, seed, parts, folder, folder / "results.jsonl", folder / "table.md", call)
    return (folder / "table.md").read_text()


def test_a_row_is_made_of_shared_parts_and_run_once(parts, tmp_path, monkeypatch):
    runs = []
    measured = learning.measured
    monkeypatch.setattr(learning, "measured", lambda *told: runs.append(told[-1].name) or measured(*told))
    text = _run({"git": _row("git")}, tmp_path, parts)
    assert len(runs) == 1
    made = {path.name.split("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"scenes", "resnet", "resnet_grid", "gpt2", "git"}
    assert _run({"git": _row("git")}, tmp_path, parts) == text and len(runs) == 1

    (line,) = learning.read(tmp_path / "results.jsonl")
    scores = json.loads(next(tmp_path.glob("git-0-*/scores/scores.json")).read_text())
    assert line["scores"] == scores and line["seed"] == 0
    assert list(line["parts"]) == ["scenes", "resnet", "resnet_grid", "gpt2"]
    assert 0 < line["trained"] < line["parameters"]
    (row,) = [found for found in text.splitlines() if found.startswith(f"| {ROWS['git'].parts}")]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3:6] == [f"{scores['attribute accuracy'][name]:.1f}" for name in scores["attribute accuracy"]]

    haste = {"git": dataclasses.replace(_row("git"), keys={**_row("git").keys, "lr": 5e-4})}
    _run(haste, tmp_path, parts)
    assert len(runs) == 2  # what a result was got with has changed
    _run(haste, tmp_path, parts, seed=1)
    assert len(runs) == 3
    assert len({path for path in tmp_path.iterdir() if path.name.startswith("gpt2-")}) == 1


def test_a_row_that_was_stopped_among_the_scores_is_not_trained_again(parts, tmp_path, monkeypatch):
    def stopped(params):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learning, "evaluate", stopped)
        _run({"clipcap": _row("clipcap")}, tmp_path, parts)
    monkeypatch.setattr(learning, "train", stopped)
    text = _run({"clipcap": _row("clipcap")}, tmp_path, parts)
    assert "## 2. ClipCap" in text
    (row,) = [found for found in text.splitlines() if found.startswith(f"| {ROWS['clipcap'].parts}")]
    assert [cell.strip() for cell in row.split("|")][6:9] == ["-"] * 3  # it learns no answers


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
