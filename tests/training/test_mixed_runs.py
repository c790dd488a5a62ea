"""Runs on captions and questions of several data sets, and by the reward of captions: what they leave and report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from git_caption.captioner.captioner import Captioner
from git_caption.jobs.shapes import make
from git_caption.metrics.vqa import soft_accuracy
from git_caption.params.shapes import ShapesDataParams
from git_caption.training import loop
from git_caption.training.main import main
from tests.pictures import jpeg
from tests.small_captioner import small_captioner

ANSWERS = [["red"] * 10, ["2"] * 3 + ["two"] * 7, ["yes"] * 2 + ["no"] * 8]
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shapes, a captioner to begin with, and a VQA set of six pictures with three questions each."""
    folder = tmp_path_factory.mktemp("data")
    make(ShapesDataParams(out_dir=str(folder / "shapes"), train=16, test=4))
    small_captioner(folder / "lm").save(folder / "start")
    asked, answered = [], []
    for image in range(1, 7):
        path = folder / "vqa" / "train2014" / f"COCO_train2014_{image:012}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(30 * image))
        for number, answers in enumerate(ANSWERS):
            question_id = 10 * image + number
            asked.append({"question_id": question_id, "image_id": image, "question": f"what is {number}?"})
            answered.append({"question_id": question_id, "answers": [{"answer": answer} for answer in answers]})
    questions = folder / "vqa" / "v2_OpenEnded_mscoco_train2014_questions.json"
    questions.write_text(json.dumps({"questions": asked}))
    (folder / "vqa" / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": answered}))
    return folder


def _config(folder: Path, out: Path, **changes: Any) -> list[str]:
    values = {
        "output_dir": str(out),
        "init_from": str(folder / "start"),
        "data": str(folder / "shapes" / "train.img.tsv"),
        "tune": "full",
        "bs": 4,
        "lr": 1e-2,
        "warmup_steps": 1,
        "num_workers": 0,
        "log_every": 1,
        "save_every": 1,
        "device": "cpu",
        **changes,
    }
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(values))
    return ["--config", str(path)]


def _table(path: Path) -> list[dict[str, str]]:
    """The lines of a journal, time and rate columns aside."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in rows]


def _stopped_and_ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    take: Callable[..., Any] = loop.TrainingRun._step

    def ends(run: Any, number: int, *rest: Any) -> Any:
        if number == after + 1:
            raise KeyboardInterrupt
        return take(run, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingRun, "_step", ends)
        assert main(arguments) == 75
    assert main(arguments) == 0


def test_a_mixture_of_captions_and_questions_is_gone_on_with_and_its_answers_are_validated(
    folder, tmp_path, monkeypatch, capsys
):
    mixture = f"{folder / 'shapes' / 'train.img.tsv'},{folder / 'vqa'}"
    changes = {
        "data": mixture,
        "data_weights": [0.25, 0.75],
        "val_data": str(folder / "vqa"),
        "best_by": "accuracy",
        "prompt": {"question": "Question: {question} Answer:"},
    }
    runs = [tmp_path / "whole", tmp_path / "stopped"]
    assert main(_config(folder, runs[0], **changes)) == 0
    assert "VQA accuracy 0." in capsys.readouterr().out
    _stopped_and_ended(_config(folder, runs[1], **changes), monkeypatch, after=3)
    for name in ("journal.csv", "validation.csv", "validation_captions.csv"):
        assert _table(runs[0] / name) == _table(runs[1] / name)
    assert len(_table(runs[0] / "journal.csv")) == 5  # of 22 pictures
    captioner = Captioner.load(runs[0], device="cpu")
    assert captioner.config.prompt.question == "Question: {question} Answer:"
    images = [folder / "vqa" / "train2014" / f"COCO_train2014_{image:012}.jpg" for image in range(1, 7)]
    scores = []
    for number, answers in enumerate(ANSWERS):
        texts = captioner.answer(images, [f"what is {number}?"] * 6, temperature=0)
        scores += [soft_accuracy(text, answers) for text in texts]
    (found,) = _table(runs[0] / "validation.csv")
    assert float(found["accuracy"]) == pytest.approx(sum(scores) / 18, abs=1e-5)
    assert found["cider"] == "" and float(found["shuffled_loss"]) > 0
    shown = _table(runs[0] / "validation_captions.csv")
    assert sorted(row["key"] for row in shown) == list("123456")
    assert {(row["question"], row["reference"]) for row in shown} == {("what is 0?", "red")}


def test_a_run_by_reward_is_gone_on_with_and_writes_its_reward_and_baseline(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycocoevalcap")
    changes = {
        "objective": "scst",
        "scst_samples": 3,
        "scst_baseline": "greedy",
        "val_data": str(folder / "shapes" / "test.img.tsv"),
    }
    runs = [tmp_path / "whole", tmp_path / "stopped"]
    assert main(_config(folder, runs[0], **changes)) == 0
    assert "weights of the best validation, at step 4: loss " in capsys.readouterr().out
    _stopped_and_ended(_config(folder, runs[1], **changes), monkeypatch, after=2)
    rows = _table(runs[0] / "journal.csv")
    assert list(rows[0]) == ["step", "epoch", "loss", "reward", "baseline", "lr"] and len(rows) == STEPS
    assert rows == _table(runs[1] / "journal.csv")
    weights = [(run / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    counted = json.loads((runs[0] / "document_frequencies.json").read_text())
    assert counted["documents"] == 16 and counted["counts"]["END"] == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions_per_image": 0}, "step 1: its pictures have no text to train on"),
        ({"data": "{vqa},{vqa}", "data_weights": [1]}, "'data_weights': 1 for 2 data sets; expected one each"),
        ({"data": "{vqa},{vqa}x"}, "no such file or folder"),
        ({"val_data": "{captions}", "best_by": "accuracy"}, "the validation set has no question"),
    ],
)
def test_data_that_cannot_be_trained_on_is_told_in_one_line(changes, message, folder, tmp_path, capsys):
    captions = folder / "captions.csv"
    captions.write_text("image,caption\nvqa/train2014/COCO_train2014_000000000001.jpg,a picture\n")
    filled = {
        key: value.format(vqa=folder / "vqa", captions=captions) if isinstance(value, str) else value
        for key, value in {"data": str(captions), **changes}.items()
    }
    assert main(_config(folder, tmp_path / "run", bs=1, **filled)) in (1, 2)
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1
