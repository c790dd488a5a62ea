"""The parameter classes of the jobs, by the keys of the old tools' own command lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from git_caption.params.convert import CaptionJsonParams, CocoFormatParams, VqaJsonParams
from git_caption.params.infer import CocoParams, SingleImageParams, SingleTsvParams
from git_caption.params.literal import parse_literal
from git_caption.params.prefetch import PrefetchParams
from git_caption.params.schema import faults, parse
from git_caption.params.score import CocoCaptionParams

THERE = ["images/cartoon.jpg", "checkpoints", "data/coco_caption", "out.tsv", "a.jpg", "b.jpg", "labels.json"]


def read(cls: type[Any], text: str) -> Any:
    return parse(cls, parse_literal(text, "-p"), "job", THERE)


def test_the_old_command_line_for_one_image() -> None:
    params = read(
        SingleImageParams,
        "{'image_encoder_type': 'ViT-B/32', \\\n 'language_model': 'gpt2-large', \\\n 'mapping_type': 'mlp', \\\n"
        " 'output_grid': False, \\\n 'input_resolution': 224, \\\n"
        " 'model_path': 'checkpoints/vitb32_gpt2l/model-004.pt', \\\n 'image_path': 'images/cartoon.jpg', \\\n"
        " 'prompt': '', \\\n}",
    )
    assert (params.model.image_encoder_type, params.model.language_model) == ("ViT-B/32", "gpt2-large")
    assert (params.model.mapper, params.model.output_grid, params.model.input_resolution) == ("mlp", False, 224)
    assert params.model.model_path == "checkpoints/vitb32_gpt2l/model-004.pt"
    assert (params.image_path, params.prompt) == ("images/cartoon.jpg", "")


def test_the_old_command_line_for_a_tsv() -> None:
    params = read(
        SingleTsvParams,
        "{'image_tsv': 'data/coco_caption/test.img.tsv', 'model_path': 'checkpoints/llama-8bit/model_lates.pt',"
        " 'question_tsv': null, 'out_tsv': 'inference/LLaMA-8bit_COCO/coco.tsv', }",
    )
    assert params.question_tsv is None
    assert params.running.batch_size == 32


def test_prefix_is_taken_for_prompt_and_a_list_is_one_video() -> None:
    params = read(SingleImageParams, "{image_path: [a.jpg, b.jpg], model_path: checkpoints, prefix: 'what is it?'}")
    assert params.prompt == "what is it?"
    assert params.image_path == ("a.jpg", "b.jpg")


@pytest.mark.parametrize(("text", "mapper"), [("'None'", "linear"), ("None", None), ("'linearLn'", "linearLn")])
def test_the_mapper_called_none_is_linear(text: str, mapper: str | None) -> None:
    params = read(SingleImageParams, f"{{'image_path': 'a.jpg', 'model_path': 'gpt2', 'mapping_type': {text}}}")
    assert params.model.mapper == mapper


def test_coco_takes_the_name_of_either_old_tool(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    given = {"data_dir": str(tmp_path), "data_type": "val2017", "model_path": "gpt2"}
    params = parse(CocoParams, given | {"json_path": "o.json", "p_test": 0.1, "temperature": 0.0}, "job")
    assert (params.out_file, params.p_test, params.decoding.temperature) == ("o.json", 0.1, 0.0)
    assert params.annotations == str(tmp_path / "annotations" / "captions_val2017.json")
    assert faults(CocoParams, given | {"out_file": "o.json", "data_type": "val2014", "p_test": 0}, "job") == [
        "job: 'p_test': expected a number above 0 and at most 1, found 0",
        f"job: 'data_type': no such annotation file: '{tmp_path}/annotations/captions_val2014.json'",
    ]


def test_scoring_by_files_and_by_split(tmp_path: Path) -> None:
    params = read(CocoCaptionParams, "{'res_file': 'out.tsv', 'label_file': 'labels.json'}")
    assert params.metrics == ("Bleu", "METEOR", "ROUGE_L", "CIDEr")
    assert params.annotations is None
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    params = read(
        CocoCaptionParams, f"{{data_dir: {tmp_path}, data_type: val2017, result_file: out.tsv, metrics: [CIDEr]}}"
    )
    assert params.annotations == str(tmp_path / "annotations" / "captions_val2017.json")
    assert params.metrics == ("CIDEr",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["missing keys: give 'res_file' and 'label_file', or 'data_dir', 'data_type', 'result_file'"]),
        ({"res_file": "out.tsv"}, ["missing key 'label_file', needed with 'res_file'"]),
        (
            {"data_type": "val2017"},
            ["missing key 'data_dir', needed with 'data_type'", "missing key 'result_file', needed with 'data_type'"],
        ),
        (
            {"res_file": "out.tsv", "data_type": "val2017"},
            [
                "'res_file' and 'data_type' belong to two ways of naming the files; "
                "give 'res_file' and 'label_file', or 'data_dir', 'data_type', 'result_file'"
            ],
        ),
        (
            {"res_file": "absent.tsv"},
            ["'res_file': no such file: 'absent.tsv'", "missing key 'label_file', needed with 'res_file'"],
        ),
        ({"res_file": 5, "label_file": "labels.json"}, ["'res_file': expected text or None, found 5"]),
        (
            {"res_file": "out.tsv", "label_file": "labels.json", "metrics": []},
            ["'metrics': expected at least one metric, found none"],
        ),
    ],
)
def test_scoring_needs_one_whole_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert faults(CocoCaptionParams, given, "job", THERE) == [f"job: {line}" for line in expected]


def test_conversions_need_both_files() -> None:
    assert read(VqaJsonParams, "{predict_file: out.tsv, out_json: a.json}").out_json == "a.json"
    assert read(CocoFormatParams, "{res_tsv: out.tsv, outfile: a.json}").res_tsv == "out.tsv"
    assert read(CaptionJsonParams, "{caption_tsv: out.tsv, outfile: a.json}").outfile == "a.json"
    assert faults(VqaJsonParams, {}, "job") == [
        "job: missing key 'predict_file': TSV of answers, one JSON a line",
        "job: missing key 'out_json': JSON to write, for submission to EvalAI",
    ]


def test_prefetch_takes_one_name_or_several() -> None:
    assert read(PrefetchParams, "{ids: gpt2}").ids == ("gpt2",)
    assert read(PrefetchParams, "{'ids': ['ViT-B/32', 'gpt2']}").ids == ("ViT-B/32", "gpt2")
    assert faults(PrefetchParams, {"ids": []}, "job") == [
        "job: 'ids': expected at least one name and no empty ones, found []"
    ]
