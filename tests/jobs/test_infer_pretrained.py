"""The inference jobs with pretrained captioners as `model_path`: the same files as with a checkpoint of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from git_caption.captioner.captioner import Captioner
from git_caption.jobs import infer
from git_caption.params.infer import CocoParams, SingleImageParams, SingleTsvParams
from git_caption.params.schema import parse
from git_caption.tsv.rows import ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests import hub_cache
from tests.pretrained_models import FAMILIES, git, llava

COLORS = [(220, 30, 30), (20, 200, 60), (30, 40, 210), (240, 240, 90), (5, 5, 5)]
ASKED = [["what ?"], ["is it red ?", "no", "one green"], [], ["yes .", "no"], ["what is left of the star ?"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for name, make in {**FAMILIES, "llava": llava}.items():
        torch.manual_seed(3)
        made[name] = make(folder / name)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five pictures of different sizes as files, as an image TSV beside a question TSV, and as a split of COCO."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    with TsvWriter(folder / "images.tsv") as images, TsvWriter(folder / "questions.tsv") as questions:
        for number, color in enumerate(COLORS):
            image = Image.new("RGB", (40 + 3 * number, 32), color)
            image.paste((255, 255, 255), (3 * number, 4, 3 * number + 12, 20))
            path = folder / "val2017" / f"{number}.png"
            image.save(path)
            images.write(ImageRow(str(number), path.read_bytes()).columns())
            asked = tuple(Question(10 * number + place, text) for place, text in enumerate(ASKED[number]))
            questions.write(QuestionRow(str(number), asked).columns())
    listed = [{"id": number, "file_name": f"{number}.png"} for number in range(5)]
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps({"images": listed, "annotations": []}))
    return folder


def parsed(cls: type, model: Path, **keys: Any) -> Any:
    given = {"model_path": str(model), "device": "cpu", "max_new_tokens": 6, **keys}
    if cls is not SingleImageParams:
        given |= {"num_workers": 0}
    return parse(cls, given, "job")


@pytest.mark.parametrize("name", [*FAMILIES, "llava"])
def test_a_tsv_is_captioned_and_its_questions_are_answered(name, models, data, tmp_path):
    captioner = Captioner.load(models[name], device="cpu")
    files = [data / "val2017" / f"{number}.png" for number in range(5)]
    keys = {"image_tsv": str(data / "images.tsv"), "batch_size": 2}
    out = tmp_path / "captions.tsv"
    if name != "blip_answering":
        infer.single_tsv(parsed(SingleTsvParams, models[name], out_tsv=str(out), **keys))
        captions = captioner.caption(files, max_new_tokens=6)
        assert len(set(captions)) > 1
        assert out.read_text().splitlines() == [
            f'{number}\t[{{"caption":{json.dumps(text)}}}]' for number, text in enumerate(captions)
        ]
    keys |= {"question_tsv": str(data / "questions.tsv"), "out_tsv": str(tmp_path / "answers.tsv")}
    infer.single_tsv(parsed(SingleTsvParams, models[name], **keys))
    rows = [(number, place, text) for number, texts in enumerate(ASKED) for place, text in enumerate(texts)]
    expected = [
        {"answer": captioner.answer([files[number]], [text], max_new_tokens=6)[0], "question_id": 10 * number + place}
        for number, place, text in rows
    ]
    assert [json.loads(line) for line in (tmp_path / "answers.tsv").read_text().splitlines()] == expected


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("blip", "vision_model"),
        ("blip_answering", "vision_model"),
        ("blip2", "vision_model"),
        ("blip2_seq2seq", "qformer"),
        ("git", "git.image_encoder"),
        ("vit_gpt2", "encoder"),
        ("llava", "model.vision_tower"),
    ],
)
def test_the_questions_about_an_image_share_its_features(name, encoder, models, data, tmp_path):
    keys = {"image_tsv": str(data / "images.tsv"), "question_tsv": str(data / "questions.tsv")}
    params = parsed(SingleTsvParams, models[name], out_tsv=str(tmp_path / "answers.tsv"), batch_size=2, **keys)
    network: Any = infer.load_captioner(params.model, params.running).network
    encoded = []

    def count(module: Any, given: Any, found: Any) -> None:
        encoded.append(len(found.last_hidden_state))

    handle = network.model.get_submodule(encoder).register_forward_hook(count)
    infer.single_tsv(params)
    handle.remove()
    assert sum(encoded) == 5, "each of five images once, though there are seven questions"


def test_one_image_and_a_folder_are_printed(models, data, capsys):
    captioner = Captioner.load(models["git"], device="cpu")
    path = data / "val2017" / "1.png"
    infer.single_image(parsed(SingleImageParams, models["git"], image_path=str(path), prefix="what ?"))
    assert capsys.readouterr().out == captioner.answer([path], ["what ?"], max_new_tokens=6)[0] + "\n"
    infer.single_image(parsed(SingleImageParams, models["git"], image_path=str(data / "val2017")))
    files = [data / "val2017" / f"{number}.png" for number in range(5)]
    texts = captioner.caption(files, max_new_tokens=6)
    assert capsys.readouterr().out == "".join(f"{file}\t{text}\n" for file, text in zip(files, texts, strict=True))


@pytest.mark.parametrize("name", ["vit_gpt2", "llava"])
def test_a_coco_split_is_captioned(name, models, data, tmp_path):
    out = tmp_path / "results.json"
    keys = {"data_dir": str(data), "data_type": "val2017", "out_file": str(out), "temperature": 0.0}
    infer.coco(parsed(CocoParams, models[name], **keys))
    files = [data / "val2017" / f"{number}.png" for number in range(5)]
    texts = Captioner.load(models[name], device="cpu").caption(files, num_beams=1, max_new_tokens=6)
    assert json.loads(out.read_text()) == [{"image_id": number, "caption": text} for number, text in enumerate(texts)]


def test_a_model_of_the_git_tool_is_known_by_its_name(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = git(tmp_path / "git")
    hub_cache.snapshot(tmp_path / "home" / "hub", "microsoft/git-base-vqav2", folder)
    given = {"model_name": "GIT_BASE_VQAv2", "image_path": str(data / "val2017" / "1.png"), "prefix": "what ?"}
    infer.single_image(parse(SingleImageParams, given | {"device": "cpu"}, "job"))
    expected = Captioner.load(folder, device="cpu").answer([given["image_path"]], ["what ?"])[0]
    assert capsys.readouterr().out == expected + "\n"


def test_rows_that_fail_are_listed_and_the_others_go_on(models, data, tmp_path):
    path, out = tmp_path / "long.tsv", tmp_path / "answers.tsv"
    with TsvWriter(path) as writer:
        for number in range(5):
            text = "green " * 400 if number == 2 else "what"
            writer.write(QuestionRow(str(number), (Question(number, text),)).columns())
    for name in ("git", "blip2", "vit_gpt2", "llava"):
        keys = {"image_tsv": str(data / "images.tsv"), "question_tsv": str(path), "out_tsv": str(out)}
        infer.single_tsv(parsed(SingleTsvParams, models[name], **keys))
        answers = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
        assert answers[2] == "" and len(answers) == 5
        errors = (tmp_path / "answers.tsv.errors.tsv").read_text()
        assert errors.count("\n") == 1 and "question_id 2" in errors and "positions" in errors
