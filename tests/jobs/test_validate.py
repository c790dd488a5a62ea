from __future__ import annotations

import json
from pathlib import Path

import pytest

from git_caption.errors import JobFailed, UsageError
from git_caption.jobs.main import main, plan
from git_caption.jobs.validate import Seen, validate_data
from git_caption.params.schema import parse
from git_caption.params.validate import ValidateDataParams
from git_caption.text.tokenizer import train_bpe
from tests.pictures import jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {
        "a.jpg": jpeg(10),
        "b.jpg": jpeg(20),
        "again.jpg": jpeg(10),
        "cut.jpg": jpeg(30)[:400],
        "page.jpg": b"<html>gone</html>",
        "blank.jpg": jpeg(40),
    }.items():
        (tmp_path / name).write_bytes(data)
    rows = [
        "a.jpg,a dog",
        "b.jpg,a black cat on a chair",
        "again.jpg,a dog",
        "cut.jpg,three little words",
        "page.jpg,x",
        "gone.jpg,y",
        "a.jpg,a dog",
        "one column",
        "blank.jpg,",
    ]
    (tmp_path / "data.csv").write_text("\n".join(["image,caption", *rows]))
    return tmp_path


def validate(folder: Path, **keys: object) -> dict[str, object]:
    given = {"data": str(folder / "data.csv"), "out_json": str(folder / "out" / "found.json"), **keys}
    validate_data(parse(ValidateDataParams, given, "validate_data"))
    found: dict[str, object] = json.loads((folder / "out" / "found.json").read_text())
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_all_that_is_in_a_data_set_is_counted(folder: Path, workers: int) -> None:
    table = folder / "data.csv"
    found = validate(folder, num_workers=workers)
    causes = [bad["cause"] for bad in found.pop("first_bad_rows")]  # type: ignore[attr-defined]
    assert found == {
        "data": str(table),
        "format": "CSV",
        "inputs": [str(table)],
        "rows": 8,
        "rows_left_out": 0,
        "images": {"good": 4, "missing": 1, "broken": 2},  # those of entries that are whole
        "captions": 7,
        "questions": 0,
        "answers": {"count": 0, "different": 0},
        "rows_without_usable_texts": 2,
        "duplicates": {
            "keys": {"count": 0, "first": []},
            "images": {"count": 1, "first": [[f"{table}:2 (a.jpg)", f"{table}:4 (again.jpg)"]]},
            # twice of a.jpg, and of again.jpg, which is the same image
            "captions": {
                "count": 2,
                "first": [
                    [f"{table}:2 (a.jpg)", f"{table}:2 (a.jpg)"],
                    [f"{table}:2 (a.jpg)", f"{table}:4 (again.jpg)"],
                ],
            },
        },
        # 1 1 2 2 2 3 6
        "caption_length": {"unit": "words", "min": 1, "p50": 2, "p90": 6, "p99": 6, "max": 6},
        "bad_rows": 5,
    }
    assert [cause.removeprefix(str(table))[:24] for cause in causes] == [
        ":5 (cut.jpg): damaged or",
        ":6 (page.jpg): not an im",
        f":7: no image {folder}"[:24],
        ":9: found 1 columns, exp",
        ":10 (blank.jpg): an empt",
    ]


def test_the_report_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validate(folder)
    lines = capsys.readouterr().out.replace(str(folder) + "/", "").splitlines()
    assert lines[:11] == [
        "data.csv: CSV",
        "rows            8",
        "images          4 good, 1 missing, 2 broken",
        "captions        7; 2 rows without usable texts",
        "questions       0; 0 answers, 0 different",
        "caption length  min 1 p50 2 p90 6 p99 6 max 6 words",
        "duplicates      0 keys, 1 images, 2 captions of one image",
        "bad rows        5",
        "  the same image: data.csv:2 (a.jpg) and data.csv:4 (again.jpg)",
        "  the same caption: data.csv:2 (a.jpg) twice",
        "  the same caption: data.csv:2 (a.jpg) and data.csv:4 (again.jpg)",
    ]
    assert len(lines) == 11 + 5 + 1


def test_lengths_are_those_of_a_tokenizer_where_one_is_named(folder: Path) -> None:
    tokenizer = train_bpe(["a dog", "a black cat"], 270, folder / "language_model")
    captions = ["a dog", "a black cat on a chair", "three little words", "x"]
    lengths = [len(tokenizer(caption)["input_ids"]) for caption in captions]
    for key in ("tokenizer", "language_model"):
        length = validate(folder, **{key: str(folder / "language_model")})["caption_length"]
        assert length["unit"] == "tokens"  # type: ignore[index]
        assert (length["min"], length["max"]) == (min(lengths), max(lengths))  # type: ignore[index]


def test_lines_without_an_image_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Train_GCC-training.tsv").write_text("".join(f"caption {row}\turl\n" for row in range(5)))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00000003.jpg").write_bytes(jpeg(1))
    found = validate(tmp_path, data=str(tmp_path))
    assert (found["rows"], found["rows_left_out"], found["bad_rows"]) == (1, 4, 0)
    assert "rows            1, 4 left out whose image is not there\n" in capsys.readouterr().out


def test_bad_rows_fail_the_job_only_where_they_are_bounded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = {"type": "validate_data", "data": str(folder / "data.csv"), "num_workers": 0}
    codes = [main(["-p", json.dumps({**command, **more})]) for more in ({}, {"max_errors": 5}, {"max_errors": 4})]
    assert codes == [0, 0, 1]
    printed = capsys.readouterr()
    assert printed.out.count("bad rows        5") == 3
    assert printed.err.count("error: ") == 1 and "5 bad rows, 'max_errors' allows 4" in printed.err


def test_a_data_set_without_a_good_row_fails_the_job(folder: Path) -> None:
    (folder / "data.csv").write_text("image,caption\ngone.jpg,x\n")
    with pytest.raises(JobFailed, match=r"data\.csv: none of the 1 rows can be trained on"):
        validate(folder)


def test_data_that_is_not_there_is_refused_before_the_job_runs(folder: Path) -> None:
    for data, cause in [("data.csw", r"no such file or folder: .*; did you mean '.*data\.csv'"), ("", "empty text")]:
        with pytest.raises(UsageError, match=cause):
            plan([{"type": "validate_data", "data": data and str(folder / data)}], "-p")
    for data in ("owner/name", f"{folder}/{{0..3}}.tar", str(folder)):
        assert plan([{"type": "validate_data", "data": data}], "-p")


def test_what_was_seen_again_is_told_with_where_it_was_first() -> None:
    seen = Seen()
    for row, value in enumerate([2**64 - 1, 5, 7, 5, 2**64 - 1, 5]):
        seen.add(value, 10 * row)
    assert seen.again() == [(10, 30), (0, 40), (10, 50)]
    assert Seen().again() == []
