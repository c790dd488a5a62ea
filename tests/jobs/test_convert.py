from __future__ import annotations

from pathlib import Path

import pytest

from git_caption.errors import DataError
from git_caption.jobs.convert import caption_tsv_to_coco_json, tsv_to_coco_format, tsv_to_vqa_json
from git_caption.params.convert import CaptionJsonParams, CocoFormatParams, VqaJsonParams


def to_vqa(folder: Path, text: str) -> bytes:
    source, out = folder / "answers.tsv", folder / "new" / "answers.json"
    source.write_text(text, encoding="utf-8")
    tsv_to_vqa_json(VqaJsonParams(predict_file=str(source), out_json=str(out)))
    return out.read_bytes()


def to_results(folder: Path, text: str) -> bytes:
    source, out = folder / "captions.tsv", folder / "new" / "captions.json"
    source.write_text(text, encoding="utf-8")
    tsv_to_coco_format(CocoFormatParams(res_tsv=str(source), outfile=str(out)))
    return out.read_bytes()


def to_annotations(folder: Path, text: str) -> bytes:
    source, out = folder / "references.tsv", folder / "new" / "references.json"
    source.write_text(text, encoding="utf-8")
    caption_tsv_to_coco_json(CaptionJsonParams(caption_tsv=str(source), outfile=str(out)))
    return out.read_bytes()


def test_answers_become_one_list_with_sorted_keys_and_no_spaces(tmp_path: Path) -> None:
    text = '{"question_id":12,"answer":"caf\u00e9"}\n{"answer":"","question_id":"a b","logprob":-0.5}\n'
    expected = rb'[{"answer":"caf\u00e9","question_id":12},{"answer":"","logprob":-0.5,"question_id":"a b"}]'
    assert to_vqa(tmp_path, text) == expected


def test_an_empty_answer_tsv_is_an_empty_list(tmp_path: Path) -> None:
    assert to_vqa(tmp_path, "") == b"[]"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('key\t{"answer":"a","question_id":1}', "2 columns"),
        ('{"answer":"a"}', r'\{"answer": "a"\}'),
        ("[1", "not JSON"),
    ],
)
def test_a_row_that_is_no_answer_is_named(tmp_path: Path, line: str, seen: str) -> None:
    with pytest.raises(DataError, match=rf"answers\.tsv:2: .*{seen}"):
        to_vqa(tmp_path, f'{{"answer":"a","question_id":1}}\n{line}\n')
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_named(tmp_path: Path, number: str) -> None:
    line = f'{{"answer":"a","logprob":{number},"question_id":1}}'
    with pytest.raises(DataError, match=r"answers\.tsv:2: .*NaN or an infinity, which is not JSON"):
        to_vqa(tmp_path, f'{{"answer":"a","question_id":1}}\n{line}\n')
    assert not (tmp_path / "new").exists()


def test_captions_become_coco_results_with_text_ids(tmp_path: Path) -> None:
    text = '391895\t[{"caption":"a caf\u00e9"}]\nb.jpg\t[{"logprob":-1.5,"caption":"two \\"dogs\\""}]\n'
    expected = rb'[{"image_id": "391895", "caption": "a caf\u00e9"}, {"image_id": "b.jpg", "caption": "two \"dogs\""}]'
    assert to_results(tmp_path, text) == expected


@pytest.mark.parametrize("row", ["a", "a\t", "a\t ", "a\t[]", 'a\t[{"caption":""}]'])
def test_a_row_without_a_caption_has_an_empty_one(tmp_path: Path, row: str) -> None:
    assert to_results(tmp_path, row) == b'[{"image_id": "a", "caption": ""}]'


def test_of_several_captions_the_first_is_taken_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'a\t[{"caption":"x"},{"caption":"y"}]\nb\t[{"caption":"z"}]\n'
    assert to_results(tmp_path, text) == b'[{"image_id": "a", "caption": "x"}, {"image_id": "b", "caption": "z"}]'
    assert "1 images have several captions; the first of each was taken" in capsys.readouterr().out


def test_a_row_that_is_no_caption_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.tsv:2: .*\"caption\": 5"):
        to_results(tmp_path, 'a\t[{"caption":"x"}]\nb\t[{"caption":5}]\n')


def test_references_become_coco_annotations_numbered_from_zero(tmp_path: Path) -> None:
    text = '7\t[{"caption":"x"},{"caption":"y"}]\nb\t[{"caption":"\u00e9"}]\nc\t[]\n'
    expected = (
        rb'{"info": "dummy", "licenses": "dummy", "type": "captions", "images": [{"file_name": "7", "id": "7"}, '
        rb'{"file_name": "b", "id": "b"}, {"file_name": "c", "id": "c"}], "annotations": [{"image_id": "7", '
        rb'"caption": "x", "id": 0}, {"image_id": "7", "caption": "y", "id": 1}, {"image_id": "b", '
        rb'"caption": "\u00e9", "id": 2}]}'
    )
    assert to_annotations(tmp_path, text) == expected


def test_a_reference_row_without_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"references\.tsv:1: found 1 columns, expected 2"):
        to_annotations(tmp_path, "a\n")
