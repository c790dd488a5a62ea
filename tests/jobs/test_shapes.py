"""The embedded example: its files are what `make_shapes` makes, and its model reads them as it should."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError, UsageError
from git_caption.jobs import shapes
from git_caption.params.schema import parse
from git_caption.params.shapes import ShapesDataParams, ShapesScoreParams
from git_caption.pipeline.chunks import Parts
from git_caption.shapes.parser import attribute_accuracy
from git_caption.shapes.scenes import scene_from_json
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_answer_row, parse_caption_row, parse_image_row
from tests.small_captioner import small_captioner

DATA = Path(__file__).parents[2] / "data" / "shapes"
SCORED = 120  # scenes


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remade")
    shapes.make(ShapesDataParams(out_dir=str(folder), train=30, test=500))
    return folder


@pytest.mark.parametrize("name", ["caption", "question", "scene"])
def test_the_texts_in_the_repository_are_what_make_shapes_makes(remade, name):
    assert (remade / f"test.{name}.tsv").read_bytes() == (DATA / f"test.{name}.tsv").read_bytes()


def test_the_pictures_in_the_repository_are_what_make_shapes_makes(remade):
    with TsvFile(remade / "test.img.tsv") as made, TsvFile(DATA / "test.img.tsv") as kept:
        assert len(made) == len(kept) == 500
        for row in range(0, 500, 25):
            pair = [parse_image_row(file.columns(row), file.where(row)) for file in (made, kept)]
            pixels = [np.asarray(Image.open(io.BytesIO(item.image)).convert("RGB")).astype(int) for item in pair]
            assert pair[0].key == pair[1].key
            assert np.abs(pixels[0] - pixels[1]).mean() < 0.5  # another JPEG library may round otherwise


def test_the_example_picture_is_the_first_of_the_test_split():
    with TsvFile(DATA / "test.img.tsv") as rows:
        assert parse_image_row(rows.columns(0), rows.where(0)).image == (DATA / "example.jpg").read_bytes()


def test_the_train_split_comes_with_answers_that_the_scenes_give(remade):
    questions = (remade / "train.question.tsv").read_text().splitlines()
    truths = [json.loads(line.split("\t")[1]) for line in (remade / "train.scene.tsv").read_text().splitlines()]
    assert len(questions) == len(truths) == 30
    for line, truth in zip(questions, truths, strict=True):
        for asked in json.loads(line.split("\t")[1]):
            assert asked["answers"] == [{"answer": truth["answers"][str(asked["question_id"])]}]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The embedded model on the first scenes of the test split."""
    out, data = tmp_path_factory.mktemp("scored"), tmp_path_factory.mktemp("scenes")
    for path in DATA.glob("test.*.tsv"):
        (data / path.name).write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:SCORED]))
    shutil.copy(DATA / "split.json", data)
    keys = {"model_path": str(DATA / "model"), "data_dir": str(data), "out_dir": str(out)}
    shapes.evaluate(parse(ShapesScoreParams, keys, "job"))
    return out, json.loads((out / "scores.json").read_text())


def test_the_embedded_model_says_what_is_in_the_pictures(scored):
    _, scores = scored
    assert scores["attribute accuracy"]["captioner"] >= 95
    assert scores["VQA accuracy"]["captioner"] >= 95


def test_what_it_says_comes_from_the_pictures(scored):
    _, scores = scored
    for name in ("attribute accuracy", "VQA accuracy"):
        assert scores[name]["shuffled images"] <= scores[name]["no image"] + 5
    assert scores["CIDEr"]["captioner"] > 2 * max(scores["CIDEr"]["shuffled images"], scores["CIDEr"]["no image"])


def test_the_scores_are_those_of_the_files_written(scored):
    out, scores = scored
    with TsvFile(out / "captions.tsv") as rows:
        captions = [parse_caption_row(columns, "captions").captions[0] for columns in rows]
    with TsvFile(DATA / "test.scene.tsv") as rows:
        truths = [json.loads(rows.columns(row)[1]) for row in range(SCORED)]
    scenes = [scene_from_json(truth["objects"], "scene") for truth in truths]
    right = [attribute_accuracy(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    assert scores["attribute accuracy"]["captioner"] == pytest.approx(100 * sum(right) / SCORED)
    answers = {str(number): answer for truth in truths for number, answer in truth["answers"].items()}
    with TsvFile(out / "answers.tsv") as rows:
        given = [parse_answer_row(columns, "answers") for columns in rows]
    assert len(given) == len(answers)
    share = sum(entry.answer == answers[str(entry.question_id)] for entry in given) / len(given)
    assert scores["VQA accuracy"]["captioner"] == pytest.approx(100 * share)


def test_the_shuffled_pictures_are_all_there_and_none_is_in_its_own_row(scored):
    with TsvFile(scored[0] / "shuffled.img.tsv") as shuffled, TsvFile(DATA / "test.img.tsv") as own:
        pairs = [(shuffled.columns(row), own.columns(row)) for row in range(SCORED)]
    assert all(a[0] == b[0] and a[1] != b[1] for a, b in pairs)
    assert sorted(a[1] for a, _ in pairs) == sorted(b[1] for _, b in pairs)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Keys of the job with a small random captioner and few scenes; it says nothing sensible, and quickly."""
    folder = tmp_path_factory.mktemp("few")
    small_captioner(tmp_path_factory.mktemp("lm")).save(folder / "model")
    shapes.make(ShapesDataParams(out_dir=str(folder / "data"), train=20, test=6))
    return {
        **{"model_path": str(folder / "model"), "data_dir": str(folder / "data"), "device": "cpu"},
        **{"num_workers": 0, "num_beams": 1, "max_new_tokens": 3},
    }


def _evaluate(keys, out, **others):
    shapes.evaluate(parse(ShapesScoreParams, {**keys, "out_dir": str(out), **others}, "job"))


def _copied(keys, folder):
    return Path(shutil.copytree(keys["data_dir"], folder / "data"))


def _written(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if "lineidx" not in path.name}


@pytest.mark.parametrize("name", ["shuffled.captions.tsv", "shuffled.answers.tsv"])
def test_a_run_stopped_among_the_shuffled_pictures_goes_on(few, tmp_path, monkeypatch, name):
    join = Parts.join

    def stopped(parts, some_good=False):
        if parts.out.name == name:
            raise KeyboardInterrupt
        return join(parts, some_good)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "join", stopped)
        _evaluate(few, tmp_path / "stopped")
    assert (tmp_path / "stopped" / f"{name}.parts" / "000000.tsv").exists()
    _evaluate(few, tmp_path / "stopped")
    _evaluate(few, tmp_path / "whole")
    assert _written(tmp_path / "stopped") == _written(tmp_path / "whole")
    assert len(_written(tmp_path / "whole")) == 6


def test_shuffled_pictures_are_made_anew_where_they_are_not_those_of_the_pictures(few, tmp_path):
    data = _copied(few, tmp_path)
    _evaluate(few, tmp_path / "out", data_dir=str(data))
    lines = (data / "test.img.tsv").read_text().splitlines(keepends=True)
    shuffled = tmp_path / "out" / "shuffled.img.tsv"
    keys, pictures = zip(*(line.rstrip().split("\t") for line in lines), strict=True)

    def expected(pictures):
        moved = [pictures[-1], *pictures[:-1]]
        return "".join(f"{key}\t{picture}\n" for key, picture in zip(keys, moved, strict=True))

    assert shuffled.read_text() == expected(pictures)
    swapped = (pictures[1], pictures[0], *pictures[2:])  # the size stays
    (data / "test.img.tsv").write_text("".join(f"{k}\t{p}\n" for k, p in zip(keys, swapped, strict=True)))
    _evaluate(few, tmp_path / "out", data_dir=str(data))
    assert shuffled.read_text() == expected(swapped)
    for damaged in (expected(swapped)[:-20], expected(swapped) + "more\tx\n", ""):
        shuffled.write_text(damaged)
        _evaluate(few, tmp_path / "out", data_dir=str(data))
        assert shuffled.read_text() == expected(swapped)


def test_a_folder_without_its_split_file_is_refused(tmp_path):
    params = parse(ShapesScoreParams, {"model_path": str(DATA), "data_dir": str(tmp_path)}, "job")
    with pytest.raises(DataError, match=r"split\.json: not readable as the seed and sizes.*make_shapes"):
        shapes.evaluate(params)


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_without_a_scene_are_refused(tmp_path, split):
    with pytest.raises(UsageError, match=f"'{split}': expected a whole number of at least 1, found 0"):
        parse(ShapesDataParams, {"out_dir": str(tmp_path), split: 0}, "job")


@pytest.mark.parametrize("sizes", [{"train": 0}, {"test": 0}, {"train": "20"}, {"max_objects": 4}])
def test_splits_of_another_form_are_refused(few, tmp_path, sizes):
    data = _copied(few, tmp_path)
    (data / "split.json").write_text(json.dumps({"seed": 0, "train": 20, "test": 6} | sizes))
    with pytest.raises(
        DataError, match=r"split\.json: not readable as the seed and sizes of the splits: .*make_shapes"
    ):
        _evaluate(few, tmp_path / "out", data_dir=str(data))


@pytest.mark.parametrize("name", ["img", "caption", "question"])
def test_files_of_other_lengths_are_refused(few, tmp_path, name):
    data = _copied(few, tmp_path)
    shorter = data / f"test.{name}.tsv"
    shorter.write_text("".join(shorter.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(
        DataError, match=f"{data}/test.scene.tsv has 6 rows and {shorter} has 4; expected .* make_shapes"
    ):
        _evaluate(few, tmp_path / "out", data_dir=str(data))


def test_a_test_split_without_rows_is_refused(few, tmp_path):
    data = _copied(few, tmp_path)
    for name in ("img", "caption", "question", "scene"):
        (data / f"test.{name}.tsv").write_text("")
    with pytest.raises(DataError, match=f"{data}/test.scene.tsv: no scenes with questions .* make_shapes"):
        _evaluate(few, tmp_path / "out", data_dir=str(data))


def test_the_embedded_example_is_small():
    assert sum(path.stat().st_size for path in (DATA / "model").rglob("*") if path.is_file()) <= 8e6
    assert sum(path.stat().st_size for path in DATA.glob("test.*.tsv")) <= 4e6
