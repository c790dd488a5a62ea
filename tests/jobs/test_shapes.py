"""The embedded example: its files are what `make_shapes` makes, and its model reads them as it should."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.jobs import shapes
from git_caption.params.schema import parse
from git_caption.params.shapes import ShapesDataParams, ShapesScoreParams
from git_caption.shapes.parser import attribute_accuracy
from git_caption.shapes.scenes import scene_from_json
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_answer_row, parse_caption_row, parse_image_row

DATA = Path(__file__).parents[2] / "data" / "shapes"


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
    out = tmp_path_factory.mktemp("scored")
    shapes.evaluate(parse(ShapesScoreParams, {"model_path": str(DATA / "model"), "out_dir": str(out)}, "job"))
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
        truths = [json.loads(columns[1]) for columns in rows]
    scenes = [scene_from_json(truth["objects"], "scene") for truth in truths]
    right = [attribute_accuracy(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    assert scores["attribute accuracy"]["captioner"] == pytest.approx(100 * sum(right) / 500)
    answers = {str(number): answer for truth in truths for number, answer in truth["answers"].items()}
    with TsvFile(out / "answers.tsv") as rows:
        given = [parse_answer_row(columns, "answers") for columns in rows]
    assert len(given) == len(answers)
    share = sum(entry.answer == answers[str(entry.question_id)] for entry in given) / len(given)
    assert scores["VQA accuracy"]["captioner"] == pytest.approx(100 * share)


def test_the_shuffled_pictures_are_all_there_and_none_is_in_its_own_row(scored):
    with TsvFile(scored[0] / "shuffled.img.tsv") as shuffled, TsvFile(DATA / "test.img.tsv") as own:
        pairs = [(shuffled.columns(row), own.columns(row)) for row in range(500)]
    assert all(a[0] == b[0] and a[1] != b[1] for a, b in pairs)
    assert sorted(a[1] for a, _ in pairs) == sorted(b[1] for _, b in pairs)


def test_a_folder_without_its_split_file_is_refused(tmp_path):
    params = parse(ShapesScoreParams, {"model_path": str(DATA), "data_dir": str(tmp_path)}, "job")
    with pytest.raises(DataError, match=r"split\.json: not readable as the seed and sizes.*make_shapes"):
        shapes.evaluate(params)


def test_the_embedded_example_is_small():
    assert sum(path.stat().st_size for path in (DATA / "model").rglob("*") if path.is_file()) <= 8e6
    assert sum(path.stat().st_size for path in DATA.glob("test.*.tsv")) <= 4e6
