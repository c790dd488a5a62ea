"""Jobs that rearrange TSVs: what comes out, row by row, against lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from git_caption.jobs.main import main
from git_caption.tsv.rows import CaptionRow, ImageRow, Question, QuestionRow, dumps
from git_caption.tsv.writer import TsvWriter
from tests.pictures import jpeg

ROWS = 150


def job(name: str, **keys: object) -> int:
    return main(["-p", json.dumps({"type": name, **keys})])


def written(path: Path, rows: list[Any]) -> Path:
    with TsvWriter(path) as out:
        for row in rows:
            out.write(row if isinstance(row, list) else row.columns())
    return path


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    """An image TSV with its companions."""
    keys = [f"k{number}" for number in range(ROWS)]
    written(tmp_path / "all.question.tsv", [QuestionRow(key, (Question(1, f"what is {key}?"),)) for key in keys])
    written(tmp_path / "all.caption.tsv", [CaptionRow(key, (f"caption of {key}",)) for key in keys])
    return written(tmp_path / "all.img.tsv", [ImageRow(key, jpeg(number)) for number, key in enumerate(keys)])


def lines(path: Path, kind: str = "img") -> list[str]:
    text = path.with_name(path.name.replace(".img.", f".{kind}.")).read_text()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def test_shuffling_keeps_rows_together_and_depends_on_the_seed_alone(tsv: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{name}.img.tsv" for name in ("a", "b", "c")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert job("tsv_shuffle", tsv=str(tsv), out_tsv=str(out), seed=seed) == 0
    a, b, c = (lines(out) for out in outs)
    assert a == b != c and sorted(a) == sorted(c) == sorted(lines(tsv)) and a != lines(tsv)
    order = [lines(tsv).index(line) for line in a]
    for kind in ("caption", "question"):
        assert lines(outs[0], kind) == [lines(tsv, kind)[number] for number in order]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (None, [50, 50, 50]),
        ([0.5, None, 10], [75, 65, 10]),
        ([0.1, 0.2, 0.7], [15, 30, 105]),
        ([150, 0, None], [150, 0, 0]),
    ],
)
def test_splitting_and_merging_give_the_whole_back(
    tsv: Path, tmp_path: Path, sizes: list[float | None] | None, expected: list[int]
) -> None:
    outs = [tmp_path / f"{number}.img.tsv" for number in range(3)]
    assert job("tsv_split", tsv=str(tsv), out_tsvs=[str(out) for out in outs], sizes=sizes) == 0
    assert [len(lines(out)) for out in outs] == expected
    whole = tmp_path / "whole.img.tsv"
    assert job("tsv_merge", tsvs=[str(out) for out in outs], out_tsv=str(whole)) == 0
    for kind in ("img", "caption", "question"):
        assert lines(whole, kind) == lines(tsv, kind)


def test_sizes_and_files_that_do_not_fit_are_refused(tsv: Path, tmp_path: Path, capsys: Any) -> None:
    outs = [str(tmp_path / f"{number}.img.tsv") for number in range(2)]
    for sizes, message in (
        ([100, 60], "they make 160 rows"),
        ([100, 20], "give None for the rest"),
        ([1.5, None], "expected a number of rows or a fraction below 1, found 1.5"),
        ([1], "1 sizes for 2 TSVs"),
    ):
        assert job("tsv_split", tsv=str(tsv), out_tsvs=outs, sizes=sizes) == 2
        assert message in capsys.readouterr().err
    assert job("tsv_shuffle", tsv=str(tsv), out_tsv=str(tsv)) == 2
    assert "which it would overwrite" in capsys.readouterr().err
    lone = written(tmp_path / "lone.img.tsv", [ImageRow("k", jpeg(1))])
    assert job("tsv_merge", tsvs=[str(tsv), str(lone)], out_tsv=str(tmp_path / "m.img.tsv")) == 1
    assert "has NAME.caption.tsv and NAME.question.tsv beside it and" in capsys.readouterr().err
    written(tmp_path / "lone.caption.tsv", [CaptionRow("other", ("c",))])
    assert job("tsv_shuffle", tsv=str(lone), out_tsv=str(tmp_path / "m.img.tsv")) == 1
    assert "the key is b'other', and b'k' in" in capsys.readouterr().err


def test_a_tsv_without_companions_goes_alone_whatever_it_holds(tmp_path: Path) -> None:
    odd = tmp_path / "odd.tsv"
    odd.write_bytes(b"a\tx\ty\n\xff\tz\nb\r\n")
    out = tmp_path / "out.tsv"
    assert job("tsv_merge", tsvs=[str(odd), str(odd)], out_tsv=str(out)) == 0
    assert out.read_bytes() == 2 * b"a\tx\ty\n\xff\tz\nb\n"


def scored(key: str, *captions: tuple[str, float]) -> list[str]:
    return [key, dumps([{"caption": text, "mean_logprob": score, "logprob": -9} for text, score in captions])]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rows = [
        scored("a", ("a dog", -0.5), ("a brown dog runs", -2.0)),
        scored("b", ("a cat", -3.0)),
        ["c", '[{"caption": "no score", "more": [1]}]'],
        ["d", "broken"],
        scored("e", ("a dog", -0.1), ("two dogs on the wide green grass", -1.0)),
        ["a", '[{"caption": "again"}]'],
    ]
    return written(tmp_path / "said.tsv", rows)


@pytest.mark.parametrize(
    ("keys", "kept", "causes"),
    [
        (
            {"min_score": -2.0},
            {"a": ["a dog", "a brown dog runs"], "e": ["a dog", "two dogs on the wide green grass"]},
            ["mean_logprob too low", "no mean_logprob", "no usable texts", "no mean_logprob"],
        ),
        (
            {"min_words": 3, "max_words": 5},
            {"a": ["a brown dog runs"]},
            ["too short", "too short", "no usable texts", "too long", "too short"],
        ),
        ({"match": r"\bdogs?\b", "no_match": "brown"}, {"a": ["a dog"], "e": 2}, ["no match"] * 2 + ["", "no match"]),
        (
            {"unique": "caption", "match": "dog"},
            {"a": 2, "e": ["two dogs on the wide green grass"]},
            ["no match", "no match", "no usable texts", "no match"],
        ),
        ({"unique": "key"}, {"a": 2, "b": 1, "c": 1, "d": None, "e": 2}, ["same key as before"]),
        ({"unique": "key", "max_words": 1}, {"a": ["again"]}, ["too long"] * 3 + ["no usable texts", "too long"]),
    ],
)
def test_filtering_keeps_what_is_good(
    captions: Path, tmp_path: Path, keys: dict[str, Any], kept: dict[str, Any], causes: list[str]
) -> None:
    out = tmp_path / "good.tsv"
    assert job("tsv_filter", tsv=str(captions), out_tsv=str(out), **keys) == 0
    found = dict(line.split("\t") for line in lines(out))
    assert list(found) == list(kept)
    for key, expected in kept.items():
        if expected is not None:
            texts = [entry["caption"] for entry in json.loads(found[key])]
            assert texts == expected if isinstance(expected, list) else len(texts) == expected
    listed = [line.split("\t")[2].partition(":")[0] for line in Path(f"{out}.errors.tsv").read_text().splitlines()]
    assert all(cause in ("", found) for cause, found in zip(causes, listed, strict=False)) and len(listed) >= len(
        causes
    )


def test_nan_is_no_score_and_is_never_written(tmp_path: Path, capsys: Any) -> None:
    entries = '[{"caption":"x","mean_logprob":NaN},{"caption":"x y"}]'
    tsv = written(tmp_path / "in.tsv", [["a", entries], ["b", '[{"caption":"z","mean_logprob":-1}]']])
    out = tmp_path / "out.tsv"
    assert job("tsv_filter", tsv=str(tsv), out_tsv=str(out), min_score=-5) == 0
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == ["b"]
    assert job("tsv_filter", tsv=str(tsv), out_tsv=str(out), max_words=1) == 0
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == ["b"]
    assert "in.tsv:1: NaN or Infinity beside a caption" in Path(f"{out}.errors.tsv").read_text()


def test_lines_that_are_kept_whole_stay_as_they_are_spelled(captions: Path, tmp_path: Path) -> None:
    out = tmp_path / "good.tsv"
    assert job("tsv_filter", tsv=str(captions), out_tsv=str(out), match="no score") == 0
    assert lines(out) == ['c\t[{"caption": "no score", "more": [1]}]']


def test_the_same_image_under_another_key_is_dropped(tmp_path: Path, capsys: Any) -> None:
    rows = [ImageRow("a", jpeg(10)), ImageRow("b", jpeg(200)), ImageRow("c", jpeg(10))]
    tsv = written(tmp_path / "x.img.tsv", rows)
    out = tmp_path / "y.img.tsv"
    assert job("tsv_filter", tsv=str(tsv), out_tsv=str(out), unique="image") == 0
    assert [line.split("\t")[0] for line in lines(out)] == ["a", "b"]
    assert "left out: 1 same image as before, listed in" in capsys.readouterr().out
    for keys, message in (({}, "nothing to filter by"), ({"match": "("}, "'match': not a regular expression")):
        assert job("tsv_filter", tsv=str(tsv), out_tsv=str(out), **keys) == 2
        assert message in capsys.readouterr().err
    written(tmp_path / "x.question.tsv", [QuestionRow(row.key, ()) for row in rows])
    assert job("tsv_filter", tsv=str(tsv), out_tsv=str(out), min_words=1) == 1
    assert "no captions beside it to judge" in capsys.readouterr().err


def test_info_tells_what_is_there(tsv: Path, tmp_path: Path, capsys: Any) -> None:
    with open(tsv, "a") as file:
        file.write("k0\tbm9uZQ==\nk9\t%%\n")
    for kind, line in {"caption": "k0\t[]", "question": "other\t[]"}.items():
        path = tmp_path / f"all.{kind}.tsv"
        path.write_text(path.read_text() + f"{line}\nk9\t{{}}\n")
    found_in = tmp_path / "found.json"
    assert job("tsv_info", tsv=str(tsv), out_json=str(found_in)) == 0
    found = json.loads(found_in.read_text())
    assert (found["rows"], found["duplicate_keys"], found["rows_with_other_keys_beside"]) == (ROWS + 2, 2, 1)
    images, captions, questions = found["files"].values()
    assert (images["images"], images["formats"], images["bad_rows"]) == (ROWS + 1, {"jpg": ROWS, "unknown": 1}, 1)
    assert (captions["captions"], captions["words"]) == (ROWS, {"min": 3, "p50": 3, "p90": 3, "max": 3})
    assert (questions["questions"], questions["questions_with_answers"]) == (ROWS, 0)
    assert len(found["first_bad_rows"]) == 3 and f"{tsv}:{ROWS + 2}: column 2 is not base64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "sizes", "expected"),
    [
        (12, None, [2, 1, 1, 2, 2, 1, 1, 2]),  # 1.5 each
        (3, None, [0, 1, 0, 1, 0, 0, 1, 0]),
        (3, [0.5, 0.5, None], [2, 1, 0]),
        (7, [0.8, 0.1, 0.1], [6, 0, 1]),
    ],
)
def test_parts_never_have_more_rows_than_there_are(
    tmp_path: Path, rows: int, sizes: list[float | None] | None, expected: list[int]
) -> None:
    tsv = written(tmp_path / "x.tsv", [[str(number), "v"] for number in range(rows)])
    outs = [tmp_path / f"{number}.tsv" for number in range(len(expected))]
    assert job("tsv_split", tsv=str(tsv), out_tsvs=[str(out) for out in outs], sizes=sizes) == 0
    assert [len(lines(out)) for out in outs] == expected
    assert [line for out in outs for line in lines(out)] == lines(tsv)


def test_no_companion_is_overwritten_however_it_is_spelled(
    tsv: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job("tsv_shuffle", tsv=str(tsv), out_tsv="./all.tsv") == 2  # its captions would be all.caption.tsv
    assert f"'out_tsv': '{tmp_path}/all.caption.tsv' is read too" in capsys.readouterr().err
    assert job("tsv_split", tsv=str(tsv), out_tsvs=["a.tsv", "./a.img.tsv"]) == 2
    assert "two would have the same companions" in capsys.readouterr().err
