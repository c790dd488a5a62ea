from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from git_caption.errors import DataError
from git_caption.jobs.score import coco_caption, read_candidates, read_references
from git_caption.metrics.coco import Metric
from git_caption.params.score import CocoCaptionParams

METRICS: tuple[Metric, ...] = ("Bleu", "ROUGE_L", "CIDEr")
NAMES = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
CAPTIONS = {"11": "a small dog runs over green grass", "22": "two people sit quietly beside the river"}
REFERENCES = {"11": [CAPTIONS["11"], "the animal is outdoors"], "22": [CAPTIONS["22"], "a couple rests"]}


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def dump(path: Path, value: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def tsv(path: Path, rows: dict[str, list[str]]) -> str:
    lines = (f"{key}\t{json.dumps([{'caption': text} for text in texts])}\n" for key, texts in rows.items())
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def result_list(captions: dict[str, str], ids: type = str) -> list[dict[str, Any]]:
    return [{"image_id": ids(image), "caption": text} for image, text in captions.items()]


def annotations(references: dict[str, list[str]], ids: type = int) -> dict[str, Any]:
    return {
        "images": [{"id": ids(image)} for image in references],
        "annotations": [
            {"image_id": ids(image), "caption": text, "id": n}
            for image, texts in references.items()
            for n, text in enumerate(texts)
        ],
    }


def run(res: str, labels: str, **keys: Any) -> dict[str, Any]:
    params = CocoCaptionParams(res_file=res, label_file=labels, metrics=METRICS, **keys)
    coco_caption(params)
    result: dict[str, Any] = json.loads(Path(keys.get("outfile") or f"{res.rpartition('.')[0]}.eval.json").read_text())
    return result


def test_two_tsvs_are_scored_into_files_beside_the_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        tsv(tmp_path / "out.tsv", {key: [text] for key, text in CAPTIONS.items()}),
        tsv(tmp_path / "labels.tsv", REFERENCES),
    )
    assert list(found)[:6] == NAMES
    assert found["ROUGE_L"] == 1
    assert found["CIDEr"] == pytest.approx(5)  # 10 for the equal reference, 0 for the other
    assert {key: found[key] for key in ("tokenizer", "images", "references", "coverage", "duplicates", "reasons")} == {
        "tokenizer": "python",
        "images": 2,
        "references": 2,
        "coverage": 1,
        "duplicates": 0,
        "reasons": {},
    }
    assert (tmp_path / "out_coco_format.json").read_bytes() == (
        b'[{"image_id": "11", "caption": "a small dog runs over green grass"}, '
        b'{"image_id": "22", "caption": "two people sit quietly beside the river"}]'
    )
    per_image = json.loads((tmp_path / "out.eval.per_image.json").read_text())
    assert [entry["image_id"] for entry in per_image] == ["11", "22"]
    assert per_image[0]["CIDEr"] == pytest.approx(5)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:6] == [
        "Bleu_1   1.000",
        "Bleu_2   1.000",
        "Bleu_3   1.000",
        "Bleu_4   1.000",
        "ROUGE_L  1.000",
        "CIDEr    5.000",
    ]
    assert printed[6] == "2 of 2 images scored; tokenizer: python"


def test_the_score_file_is_indented_by_four_as_the_original(tmp_path: Path) -> None:
    run(dump(tmp_path / "r.json", result_list(CAPTIONS)), dump(tmp_path / "l.json", annotations(REFERENCES)))
    assert (tmp_path / "r.eval.json").read_text().startswith('{\n    "Bleu_1": ')


@pytest.mark.parametrize("label_ids", [int, str])
@pytest.mark.parametrize("result_ids", [int, str])
def test_ids_are_compared_as_texts(tmp_path: Path, result_ids: type, label_ids: type) -> None:
    found = run(
        dump(tmp_path / "r.json", result_list(CAPTIONS, result_ids)),
        dump(tmp_path / "l.json", annotations(REFERENCES, label_ids)),
    )
    assert found["images"] == 2


def test_annotations_alone_without_a_list_of_images_are_references(tmp_path: Path) -> None:
    document = {"annotations": annotations(REFERENCES, str)["annotations"]}
    assert read_references(dump(tmp_path / "nice.json", document)) == REFERENCES


def test_a_null_metric_is_in_the_file_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    res = dump(tmp_path / "r.json", result_list(CAPTIONS))
    labels = dump(tmp_path / "l.json", annotations(REFERENCES))
    coco_caption(CocoCaptionParams(res_file=res, label_file=labels, metrics=("METEOR", "ROUGE_L")))
    found = json.loads((tmp_path / "r.eval.json").read_text())
    assert (found["METEOR"], found["ROUGE_L"]) == (None, 1)
    assert found["reasons"] == {"METEOR": "needs Java, and there is no 'java' on the PATH"}
    assert "METEOR   null   needs Java, and there is no 'java' on the PATH" in capsys.readouterr().out


def test_of_duplicates_the_last_is_scored_and_they_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [{"image_id": "11", "caption": "nonsense"}, *result_list(CAPTIONS)]
    found = run(dump(tmp_path / "r.json", results), dump(tmp_path / "l.json", annotations(REFERENCES)))
    assert (found["duplicates"], found["ROUGE_L"]) == (1, 1)
    assert "1 captions are for an image that has one already; the last was scored" in capsys.readouterr().out


def test_of_several_captions_in_a_row_the_first_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {key: [text, "nonsense"] for key, text in CAPTIONS.items()}
    found = run(tsv(tmp_path / "out.tsv", rows), tsv(tmp_path / "labels.tsv", REFERENCES))
    assert found["ROUGE_L"] == 1
    assert "2 images have several captions; the first of each was scored" in capsys.readouterr().out


def test_references_of_one_image_on_several_rows_all_count(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text('a\t[{"caption":"x"}]\nb\t[]\na\t[{"caption":"y"}]\n')
    assert read_references(str(path)) == {"a": ["x", "y"], "b": []}


def test_coverage_is_the_share_of_the_references_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = {**REFERENCES, "33": ["a bird"], "44": ["a cow"]}
    found = run(dump(tmp_path / "r.json", result_list(CAPTIONS)), dump(tmp_path / "l.json", annotations(references)))
    assert (found["images"], found["references"], found["coverage"]) == (2, 4, 0.5)
    assert "2 of 4 images scored" in capsys.readouterr().out


def test_a_split_of_coco_is_scored_into_its_results_folder(tmp_path: Path) -> None:
    dump(tmp_path / "annotations" / "captions_val2017.json", annotations(REFERENCES))
    results = dump(tmp_path / "mine.json", result_list(CAPTIONS, int))
    coco_caption(
        CocoCaptionParams(data_dir=str(tmp_path), data_type="val2017", result_file=results, metrics=("ROUGE_L",))
    )
    assert json.loads((tmp_path / "results" / "eval_val2017.json").read_text())["ROUGE_L"] == 1
    assert json.loads((tmp_path / "results" / "evalImgs_val2017.json").read_text()) == [
        {"image_id": "11", "ROUGE_L": 1.0},
        {"image_id": "22", "ROUGE_L": 1.0},
    ]


def test_outfile_names_both_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.json"
    results, labels = result_list(CAPTIONS), annotations(REFERENCES)
    run(dump(tmp_path / "r.json", results), dump(tmp_path / "l.json", labels), outfile=str(out))
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores.json", "scores.per_image.json"]


@pytest.mark.parametrize(
    ("document", "seen"),
    [
        ([{"image_id": 1, "caption": "x"}, {"image_id": 2}], r'entry 2 is \{"image_id": 2\}'),
        ([{"image_id": True, "caption": "x"}], r"entry 1 is .*true"),
        ([7], "entry 1 is 7"),
        ({"images": []}, r'found \{"images": \[\]\}'),
        ("text", 'found "text"'),
    ],
)
def test_a_json_in_another_form_is_refused_naming_the_entry(tmp_path: Path, document: Any, seen: str) -> None:
    path = dump(tmp_path / "r.json", document)
    with pytest.raises(DataError, match=rf"r\.json: {seen}"):
        read_candidates(path)


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("a\tb\n")
    with pytest.raises(DataError, match=r"r\.json: not JSON \(.*line 1 column 1"):
        read_candidates(str(path))


def test_a_caption_row_that_is_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    path.write_text('a\t[{"caption":"x"}]\nb\tx\n')
    with pytest.raises(DataError, match=r"out\.tsv:2: column 2 is not JSON"):
        read_candidates(str(path))


def test_captions_of_another_split_are_refused(tmp_path: Path) -> None:
    res = dump(tmp_path / "r.json", result_list({"99": "x"}))
    expected = r"r\.json, scored against .*l\.json: 1 of 1 captioned images have no reference: '99'; .* have '11', '22'"
    with pytest.raises(DataError, match=expected):
        run(res, dump(tmp_path / "l.json", annotations(REFERENCES)))


def test_captions_in_a_folder_that_cannot_be_written_are_scored_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import git_caption.jobs.score as module

    def refuse(path: str, text: str) -> None:
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr(module, "write_text", refuse)  # root may write anywhere, so a folder's mode proves nothing
    found = run(
        tsv(tmp_path / "out.tsv", {key: [text] for key, text in CAPTIONS.items()}),
        tsv(tmp_path / "labels.tsv", REFERENCES),
        outfile=str(tmp_path / "elsewhere.json"),
    )
    assert found["ROUGE_L"] == 1
    assert "out_coco_format.json: not written: Read-only file system" in capsys.readouterr().err


def test_an_empty_file_of_captions_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.json, scored against .*: there are no candidate captions"):
        run(dump(tmp_path / "r.json", []), dump(tmp_path / "l.json", annotations(REFERENCES)))
