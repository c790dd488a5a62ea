"""Data sets in the layout of the real ones become TSVs with the files' own bytes; what is left out is counted."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from git_caption.jobs.main import main
from git_caption.samples.open_data import open_data
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import dumps
from tests.datasets_on_disk import ANSWERS, annotation, coco, coco_test, karpathy, vqav2, write
from tests.pictures import contents, jpeg
from tests.pipeline.test_crash_points import ended_at
from tests.samples.test_webdataset import write_tar


def prepare(job: str, **keys: object) -> int:
    return main(["-p", json.dumps({"type": job, "num_workers": 0, **keys})])


def images(path: Path) -> dict[str, bytes]:
    assert path.with_suffix(".lineidx").is_file() and path.with_suffix(".lineidx.8b").is_file()
    with TsvFile(path) as rows:
        return {key: base64.b64decode(image) for key, image in rows}


def texts(path: Path) -> dict[str, Any]:
    with TsvFile(path) as rows:
        return {key: json.loads(text) for key, text in rows}


def captions(path: Path) -> dict[str, list[str]]:
    return {key: [entry["caption"] for entry in entries] for key, entries in texts(path).items()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "mine.img.tsv"


def beside(out: Path, kind: str) -> Path:
    return out.with_name(f"mine.{kind}.tsv")


def test_cc3m_gives_the_images_that_are_there(tmp_path: Path, out: Path, capsys: Any) -> None:
    lines = ["a dog\thttp://x/0.jpg", "gone\thttp://x/1.jpg", "a cat\thttp://x/2.jpg", "a page\thttp://x/3.jpg"]
    write(tmp_path / "Train_GCC-training.tsv", "\n".join(lines) + "\n")
    for number, data in {0: jpeg(10), 2: jpeg(20), 3: b"<html>404</html>"}.items():
        write(tmp_path / "train" / f"{number:08}.jpg", data)
    assert prepare("prepare_cc3m", data=str(tmp_path), out_tsv=str(out)) == 0
    assert images(out) == {"00000000": jpeg(10), "00000002": jpeg(20)}
    assert captions(beside(out, "caption")) == {"00000000": ["a dog"], "00000002": ["a cat"]}
    printed = capsys.readouterr().out
    assert "2 of 3 rows" in printed and "left out: 1 broken image, listed in" in printed
    assert "1 rows without an image were passed over" in printed
    [[row, key, cause]] = list(TsvFile(Path(f"{out}.errors.tsv")))
    assert (row, key) == ("3", "00000003") and "an HTML page" in cause
    assert prepare("prepare_cc3m", data=str(tmp_path), out_tsv=str(out), verify=False) == 0
    assert len(images(out)) == 3 and not Path(f"{out}.errors.tsv").exists()


@pytest.mark.parametrize(("part", "form"), [("val2014", "COCO_{part}_{id:012}.jpg"), ("val2017", "{id:012}.jpg")])
def test_coco_gives_an_image_a_row_with_its_captions(
    tmp_path: Path, out: Path, capsys: Any, part: str, form: str
) -> None:
    coco(tmp_path, part, {42: ["A shoe rack.\n", "Some shoes"], 7: None, 73: ["A motorcycle"]}, form)
    coco(tmp_path, "train2014", {1: ["other"]})
    assert prepare("prepare_coco", data_dir=str(tmp_path), split=part, out_tsv=str(out)) == 0
    assert images(out) == {"42": jpeg(42), "73": jpeg(73)}
    assert captions(beside(out, "caption")) == {"42": ["Some shoes", "A shoe rack.\n"], "73": ["A motorcycle"]}
    assert "left out: 1 no image, listed in" in capsys.readouterr().out


@pytest.mark.parametrize(("part", "images_of"), [("test2014", "test2014"), ("test-dev2017", "test2017")])
def test_a_test_split_of_coco_has_images_alone(tmp_path: Path, out: Path, part: str, images_of: str) -> None:
    coco_test(tmp_path, part, [57, 108])
    (tmp_path / part).rename(tmp_path / images_of)
    assert prepare("prepare_coco", data=str(tmp_path), split=part, out_tsv=str(out)) == 0
    assert images(out) == {"57": jpeg(57), "108": jpeg(108)}
    assert not beside(out, "caption").exists()


def test_karpathys_splits_are_keyed_by_cocoid_and_the_test_split_is_as_the_git_tool_has_it(
    tmp_path: Path, out: Path
) -> None:
    karpathy(
        tmp_path,
        [
            ("test", 391895, "val2014", ["A man with a red helmet.", "a man  on a motor bike"]),
            ("restval", 318, "val2014", ["kept for training"]),
            ("train", 9, "train2014", ["one"]),
            ("test", 60623, "val2014", ["A young girl"]),
        ],
    )
    assert prepare("prepare_coco", data=str(tmp_path), out_tsv=str(out)) == 0
    assert list(images(out)) == ["318", "9"]
    assert prepare("prepare_coco_test", data=str(tmp_path), out_tsv=str(out)) == 0
    # What that tool's prepare_coco_test writes: cocoid, base64 of the file; cocoid, JSON of the raw sentences.
    document = json.loads((tmp_path / "dataset_coco.json").read_text())
    rows = [image for image in document["images"] if image["split"] == "test"]
    files = [(tmp_path / "val2014" / row["filename"]).read_bytes() for row in rows]
    assert out.read_text() == "".join(
        f"{row['cocoid']}\t{base64.b64encode(file).decode()}\n" for row, file in zip(rows, files, strict=True)
    )
    assert beside(out, "caption").read_text() == "".join(
        f"{row['cocoid']}\t{dumps([{'caption': sentence['raw']} for sentence in row['sentences']])}\n" for row in rows
    )


def test_vqav2_has_its_questions_with_all_that_is_known_of_their_answers(tmp_path: Path, out: Path) -> None:
    asked = [(458752000, 458752, "What is this?"), (262148000, 262148, "Where is he?"), (458752001, 458752, "Who?")]
    vqav2(tmp_path, "val2014", asked, answered=True)
    assert prepare("prepare_vqav2", data=str(tmp_path), split="val2014", out_tsv=str(out)) == 0
    assert images(out) == {"458752": jpeg(458752 % 200), "262148": jpeg(262148 % 200)}
    found = texts(beside(out, "question"))
    known = {key: value for key, value in annotation(458752001, 458752).items() if key not in ("image_id",)}
    assert found["458752"][1] == {"question": "Who?", **known}
    assert [entry["question_id"] for entry in found["458752"]] == [458752000, 458752001]
    assert found["262148"][0]["answers"][2] == {"answer": "net", "answer_confidence": "maybe", "answer_id": 3}
    trained_on = open_data(out)  # as `train.py --data` reads it
    assert trained_on.kind == "image TSV and question TSV"
    assert trained_on.texts(0).questions[0].answers == tuple(ANSWERS)


def test_vqav2_is_called_as_the_git_tool_calls_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    vqav2(tmp_path / "raw", "test2015", [(1000, 1, "What?")], answered=False)
    assert prepare("prepare_vqav2", data="raw", split="test2015") == 0
    assert images(Path("data/TaxVQAv2/test.tsv")) == {"1": jpeg(1)}
    assert texts(Path("data/TaxVQAv2/test.caption.tsv")) == {"1": [{"question": "What?", "question_id": 1000}]}
    vqav2(tmp_path / "dev", "test-dev2015", [(1000, 1, "What?")], answered=False)
    assert prepare("prepare_vqav2", data="dev", split="test-dev2015", out_tsv="dev.img.tsv") == 0
    assert images(Path("dev.img.tsv")) == {"1": jpeg(1)} and Path("dev.question.tsv").is_file()


def test_a_question_without_the_answers_that_others_have_leaves_its_image_out(
    tmp_path: Path, out: Path, capsys: Any
) -> None:
    vqav2(tmp_path, "train2014", [(10, 1, "a?"), (20, 2, "b?")], answered=True)
    path = tmp_path / "v2_mscoco_train2014_annotations.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "annotations": document["annotations"][:1]}))
    assert prepare("prepare_vqav2", data=str(tmp_path), split="train", out_tsv=str(out)) == 0
    assert list(images(out)) == ["1"]
    assert "left out: 1 no usable texts" in capsys.readouterr().out


def test_nice_is_read_from_its_csv(tmp_path: Path, out: Path) -> None:
    write(
        tmp_path / "nice-val-5k.csv",
        'public_id,caption_gt,category\n1587140930,"Man, applying ""sun"" screen",medium\n7,second,plain\n',
    )
    write(tmp_path / "val" / "1587140930.jpg", jpeg(10))
    write(tmp_path / "val" / "7.jpg", jpeg(20))
    assert prepare("prepare_nice", data=str(tmp_path), out_tsv=str(out)) == 0
    assert images(out) == {"1587140930": jpeg(10), "7": jpeg(20)}
    assert captions(beside(out, "caption")) == {"1587140930": ['Man, applying "sun" screen'], "7": ["second"]}


def test_nices_test_split_has_images_alone(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "nice-test.csv", "public_id\n5\n")
    write(tmp_path / "pictures" / "5.jpg", jpeg(30))
    assert prepare("prepare_nice", data=str(tmp_path), image_dir=str(tmp_path / "pictures"), out_tsv=str(out)) == 0
    assert images(out) == {"5": jpeg(30)} and not beside(out, "caption").exists()


def test_the_real_captions_of_nice_are_prepared_without_their_images(shared_data: Path, out: Path, capsys: Any) -> None:
    data = shared_data / "nice"
    assert prepare("prepare_nice", data=str(data), out_tsv=str(out)) == 0
    assert "no image is there" in capsys.readouterr().err
    assert not out.exists()
    truth = json.loads((data / "nice_gt.json").read_text())["annotations"]
    assert captions(beside(out, "caption")) == {entry["image_id"]: [entry["caption"]] for entry in truth}


def test_instagram_keeps_its_emoji(tmp_path: Path, out: Path) -> None:
    datasets = pytest.importorskip("datasets")
    words = ['"eyes up here" 💋', "Rows 👩‍👩‍👧 #family\nсемья", "\u200f\U0001f1e7\U0001f1f7"]
    pictures = [{"bytes": jpeg(10 * number), "path": None} for number in range(3)]
    rows = datasets.Dataset.from_dict({"image": pictures, "caption": words})
    datasets.DatasetDict({"train": rows.cast_column("image", datasets.Image())}).save_to_disk(tmp_path / "saved")
    assert prepare("prepare_instagram", data=str(tmp_path / "saved"), out_tsv=str(out)) == 0
    assert images(out) == {str(number): jpeg(10 * number) for number in range(3)}
    assert list(captions(beside(out, "caption")).values()) == [[text] for text in words]


def test_the_real_captions_of_instagram_come_back_as_they_are(shared_data: Path, out: Path) -> None:
    data = shared_data / "instagram"
    assert prepare("prepare_instagram", data=str(data), split="train", out_tsv=str(out)) == 0
    truth = [entry for entry in json.loads((data / "captions.json").read_text()) if entry["split"] == "train"]
    assert captions(beside(out, "caption")) == {entry["image_path"]: [entry["caption"]] for entry in truth}


def test_a_folder_is_keyed_by_path(tmp_path: Path, out: Path, capsys: Any) -> None:
    folder = tmp_path / "photos"
    for name, level in {"b.jpg": 10, "a/x.JPG": 20, "a/y.jpg": 30, "a/y.png": 40, ".hidden.jpg": 50}.items():
        write(folder / name, jpeg(level))
    write(folder / "notes.md", "no image")
    assert prepare("prepare_folder", data=str(folder), out_tsv=str(out)) == 0
    assert images(out) == {"a/x": jpeg(20), "a/y.jpg": jpeg(30), "a/y.png": jpeg(40), "b": jpeg(10)}
    assert not beside(out, "caption").exists()
    write(folder / "b.txt", "a boat\n")
    assert prepare("prepare_folder", data=str(folder), out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"b": ["a boat"]} and list(images(out)) == ["b"]
    assert "left out: 3 no usable texts" in capsys.readouterr().out
    assert contents(open_data(out)) == [("b", ("a boat",), 10)]


def test_a_json_list_of_text_and_image_is_taken(tmp_path: Path, out: Path) -> None:
    image = write(tmp_path / "images" / "3808.jpg", jpeg(60))
    data = write(tmp_path / "train.json", [{"text": "a new post !", "image": str(image)}, {"text": "x", "image": 7}])
    assert prepare("prepare_json", data=str(data), out_tsv=str(out)) == 0
    assert images(out) == {str(image): jpeg(60)}
    assert captions(beside(out, "caption")) == {str(image): ["a new post !"]}


def test_flickr8k_is_prepared_by_split(tmp_path: Path, out: Path) -> None:
    names = ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg"]
    lines = [f"{name}#{number}\tcaption {number} of {name[:4]} ." for name in names for number in range(5)]
    write(tmp_path / "Flickr8k.token.txt", "\n".join(lines) + "\n")
    for split, name in zip(("train", "test"), names, strict=True):
        write(tmp_path / f"Flickr_8k.{split}Images.txt", name + "\n")
        write(tmp_path / "Flicker8k_Dataset" / name, jpeg(10 if split == "train" else 20))
    assert prepare("prepare_flickr8k", data=str(tmp_path), split="test", out_tsv=str(out)) == 0
    assert images(out) == {names[1]: jpeg(20)}
    assert captions(beside(out, "caption")) == {names[1]: [f"caption {number} of 1001 ." for number in range(5)]}


@pytest.mark.parametrize(
    ("job", "keys", "message"),
    [
        ("prepare_coco", {}, "no data set in it"),
        ("prepare_coco_test", {}, "no dataset_coco.json"),
        ("prepare_cc3m", {}, "no data set in it"),
        ("prepare_vqav2", {"split": "val2014"}, "no questions of VQAv2 in it"),
        ("prepare_nice", {}, "expected one file of captions"),
        ("prepare_folder", {}, "no image in it"),
        ("prepare_folder", {"out_tsv": "mine.jsonl"}, "expected the name of a TSV, as NAME.img.tsv"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, capsys: Any, job: str, keys: dict[str, str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    assert prepare(job, **{"data": str(tmp_path / "empty"), "out_tsv": str(tmp_path / "x.img.tsv"), **keys}) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_data_set_without_a_usable_row_fails_and_leaves_what_was_there(
    tmp_path: Path, out: Path, capsys: Any
) -> None:
    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}

    keys = {"data": str(tmp_path / "photos"), "out_tsv": str(out)}
    good = write(tmp_path / "photos" / "a.jpg", jpeg(10))
    write(tmp_path / "photos" / "b.jpg", b"none")
    write(tmp_path / "photos" / "a.txt", "a boat")
    assert prepare("prepare_folder", **keys) == 0
    before = there()
    assert len(before) == 7
    good.write_bytes(b"none")
    capsys.readouterr()
    assert prepare("prepare_folder", **keys) == 1
    [line] = capsys.readouterr().err.splitlines()
    left = Path(f"{out}.parts") / "errors.tsv"
    assert "none of the 2 rows could be used" in line and "row 1, key 'a': broken image: " in line
    assert line.endswith(f"all are listed in {left}")
    assert [row.split("\t")[:2] for row in left.read_text().splitlines()] == [["1", "a"], ["2", "b"]]
    assert there() == before and [path.name for path in left.parent.iterdir()] == [left.name]
    good.write_bytes(jpeg(20))
    assert prepare("prepare_folder", **keys) == 0
    assert images(out) == {"a": jpeg(20)} and not left.parent.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_ended_anywhere_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(70):  # two chunks
        write(folder / f"{number:03}.jpg", jpeg(number) if number != 5 else b"broken")
        write(folder / f"{number:03}.txt", f"number {number}")

    def run(out: Path) -> None:
        assert prepare("prepare_folder", data=str(folder), out_tsv=str(out)) == 0

    def written(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(out.parent.iterdir())}

    run(tmp_path / "whole" / "mine.img.tsv")
    whole = written(tmp_path / "whole" / "mine.img.tsv")
    assert len(whole) == 7
    for touch in range(1, 200, 5):
        out = tmp_path / str(touch) / "mine.img.tsv"
        out.parent.mkdir()
        status = ended_at(touch, out, run)
        run(out)
        assert written(out) == whole, touch
        if status == 0:
            break
    assert touch > 40


def test_flickr8k_of_kaggle_is_taken_too(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "captions.txt", "image,caption\na.jpg,one .\na.jpg,two .\n")
    write(tmp_path / "Images" / "a.jpg", jpeg(10))
    assert prepare("prepare_flickr8k", data=str(tmp_path), out_tsv=str(out)) == 0
    assert images(out) == {"a.jpg": jpeg(10)}
    assert captions(beside(out, "caption")) == {"a.jpg": ["one .", "two ."]}


def listed(out: Path) -> list[list[str]]:
    return list(TsvFile(Path(f"{out}.errors.tsv")))


def test_a_name_that_is_no_text_leaves_out_its_row_alone(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "photos" / "a.jpg", jpeg(10))
    for name in (b"b\xff.jpg", b"c\td.jpg"):
        (tmp_path / "photos" / os.fsdecode(name)).write_bytes(jpeg(20))
    assert prepare("prepare_folder", data=str(tmp_path / "photos"), out_tsv=str(out)) == 0
    assert list(images(out)) == ["a"]
    assert [row[1] for row in listed(out)] == ["b\\udcff", "c d"]
    assert all(row[2].startswith("no usable texts: ") for row in listed(out))


def test_what_is_wrong_with_an_entry_is_told(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(10))
    data = write(tmp_path / "list.json", [{"image": "a.jpg", "text": "x"}, {"image": "b.jpg", "text": 7}])
    assert prepare("prepare_json", data=str(data), out_tsv=str(out)) == 0
    assert (
        listed(out)[0][2] == f"no usable texts: {data}, entry 2: the caption is 7, expected a text or a list of texts"
    )


def test_a_caption_that_cannot_be_used_leaves_the_others_of_its_image(tmp_path: Path, out: Path) -> None:
    karpathy(tmp_path, [("train", 9, "train2014", ["one", " ", "three"]), ("restval", 8, "val2014", ["\ud83d", "x"])])
    assert prepare("prepare_coco", data=str(tmp_path), out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"9": ["one", "three"], "8": ["x"]}
    assert [row[1] for row in listed(out)] == ["9", "8"]
    assert "an empty caption" in listed(out)[0][2] and "not Unicode text" in listed(out)[1][2]


@pytest.mark.parametrize("form", ["JSONL", "tar", "Parquet", "saved"])
def test_in_every_format_a_caption_that_cannot_be_used_is_left_out_alone(
    tmp_path: Path, out: Path, capsys: Any, form: str
) -> None:
    said = [["one", None, " ", "two"], ["x"], [None, ""]]
    pictures = [jpeg(10 * number) for number in range(3)]
    data, job, key = tmp_path / "data", "prepare_instagram", "data"
    if form == "JSONL":
        data, job = tmp_path / "list.jsonl", "prepare_json"
        for number, picture in enumerate(pictures):
            write(tmp_path / f"{number}.jpg", picture)
        entries = [{"image": f"{number}.jpg", "captions": texts} for number, texts in enumerate(said)]
        write(data, "".join(json.dumps(entry) + "\n" for entry in entries))
    elif form == "tar":
        job, key = "webdataset_to_tsv", "tars"
        members = [(f"{n}.{end}", of[n]) for n in range(3) for end, of in (("jpg", pictures), ("json", said))]
        data.mkdir()
        write_tar(
            data / "x.tar", [(name, json.dumps(of).encode() if name[2:] == "json" else of) for name, of in members]
        )
    else:
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_dict({"image": [{"bytes": each, "path": None} for each in pictures], "text": said})
        rows = rows.cast_column("image", datasets.Image())
        data.mkdir()
        rows.to_parquet(data / "x.parquet") if form == "Parquet" else rows.save_to_disk(data)
    assert prepare(job, **{key: str(data)}, out_tsv=str(out)) == 0
    assert list(captions(beside(out, "caption")).values()) == [["one", "two"], ["x"]]
    assert list(images(out).values()) == pictures[:2]
    printed = capsys.readouterr().out
    assert "2 of 3 rows" in printed and "left out: 1 unusable caption, 1 no usable texts, listed in" in printed
    [(first, cause), (other, _)] = [(row, cause) for row, _, cause in listed(out)]
    assert (first, other) == ("1", "3")
    assert cause.startswith("unusable caption: ") and cause.count("expected a text") == cause.count("an empty") == 1


def test_nan_in_answers_is_told(tmp_path: Path, out: Path, capsys: Any) -> None:
    vqav2(tmp_path, "val2014", [(10, 1, "a?")], answered=True)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    path.write_text(path.read_text().replace('"yes"', "NaN", 1).replace('"net"', "NaN", 1))
    assert prepare("prepare_vqav2", data=str(tmp_path), split="val2014", out_tsv=str(out)) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line and "image 1: NaN or Infinity, which is no JSON" in line


def test_where_no_entry_can_be_read_the_first_is_told(tmp_path: Path, out: Path, capsys: Any) -> None:
    data = write(tmp_path / "list.json", '[{"image": "a.jpg", "text": NaN}, {"image": NaN, "text": "x"}]')
    assert prepare("prepare_json", data=str(data), out_tsv=str(out)) == 1
    error = capsys.readouterr().err
    assert "none of the 2 rows could be used" in error and f"{data}, entry 1: the caption is nan" in error


def test_a_folder_in_the_place_of_a_companion_is_named(tmp_path: Path, out: Path, capsys: Any) -> None:
    write(tmp_path / "photos" / "a.jpg", jpeg(10))
    write(tmp_path / "photos" / "a.txt", "a boat")
    beside(out, "caption").mkdir(parents=True)
    assert prepare("prepare_folder", data=str(tmp_path / "photos"), out_tsv=str(out)) == 1
    assert f"cannot write {beside(out, 'caption')}: Is a directory; " in capsys.readouterr().err


def test_a_file_under_two_numbers_is_two_images(tmp_path: Path, out: Path) -> None:
    entries = [{"id": number, "file_name": "a.jpg"} for number in (1, 2)]
    said = [{"image_id": number, "caption": f"of {number}"} for number in (2, 1)]
    write(tmp_path / "a.jpg", jpeg(10))
    data = write(tmp_path / "list.json", {"images": entries, "annotations": said})
    assert prepare("prepare_coco", data=str(data), out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"1": ["of 1"], "2": ["of 2"]}


def test_karpathys_archive_has_three_files_in_one_folder(tmp_path: Path, out: Path) -> None:
    karpathy(tmp_path, [("test", 9, "val2014", ["one"])])
    for name in ("flickr8k", "flickr30k"):
        image = {"filename": f"{name}.jpg", "split": "test", "sentences": [{"raw": f"of {name}"}]}
        write(tmp_path / f"dataset_{name}.json", {"images": [image], "dataset": name})
        write(tmp_path / f"{name}.jpg", jpeg(20))
    assert prepare("prepare_coco", data=str(tmp_path), split="test", out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"9": ["one"]}
    assert prepare("prepare_flickr8k", data=str(tmp_path), split="test", out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"flickr8k.jpg": ["of flickr8k"]}


def test_image_dir_is_the_folder_that_the_images_lie_in(tmp_path: Path, out: Path, capsys: Any) -> None:
    karpathy(tmp_path, [("test", 9, "val2014", ["one"])])
    (tmp_path / "val2014").rename(tmp_path / "flat")
    keys = {"data": str(tmp_path), "out_tsv": str(out)}
    assert prepare("prepare_coco_test", **keys, image_dir=str(tmp_path / "flat")) == 0
    assert images(out) == {"9": jpeg(9)}
    (tmp_path / "empty").mkdir()
    assert prepare("prepare_coco_test", **keys, image_dir=str(tmp_path / "empty")) == 2
    assert (
        f"'image_dir': no image is there that {tmp_path} names; looked in {tmp_path}/empty" in capsys.readouterr().err
    )


def test_odd_numbers_and_delimiters_of_nice(tmp_path: Path, out: Path) -> None:
    for name in ("1", "2"):
        write(tmp_path / "val" / f"{name}.jpg", jpeg(int(name)))
    write(tmp_path / "nice.csv", "\ufeffpublic_id;caption_gt\r\n1.jpg;a, b\r\n 2 ;c\r\n;nobody's\r\n")
    assert prepare("prepare_nice", data=str(tmp_path), out_tsv=str(out)) == 0
    assert captions(beside(out, "caption")) == {"1": ["a, b"], "2": ["c"]}
    assert "nice.csv:4: no number in column 'public_id'" in listed(out)[0][2]


def test_flickr8k_as_its_archives_unpack_with_the_line_ends_of_windows(tmp_path: Path, out: Path) -> None:
    texts_folder = tmp_path / "Flickr8k_text"
    write(texts_folder / "Flickr8k.token.txt", "\ufeff1.jpg#0\tone\r\n1.jpg#1\t\r\n\r\n2.jpg#0\ttwo\r\n")
    write(texts_folder / "Flickr_8k.testImages.txt", "\ufeff1.jpg\r\n")
    write(tmp_path / "Flickr8k_Dataset" / "Flicker8k_Dataset" / "1.jpg", jpeg(10))
    assert prepare("prepare_flickr8k", data=str(tmp_path), split="test", out_tsv=str(out)) == 0
    assert (images(out), captions(beside(out, "caption"))) == ({"1.jpg": jpeg(10)}, {"1.jpg": ["one"]})
    assert [row[1] for row in listed(out)] == ["1.jpg"]


def test_linked_folders_are_gone_into_once_and_keys_are_never_the_same(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "photos"
    for number, name in enumerate(["a.jpg", "a.png", "a.jpg.png", "b/c.jpg"]):
        write(folder / name, jpeg(10 * number))
    write(tmp_path / "other" / "d.jpg", jpeg(90))
    (folder / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(folder)
    assert prepare("prepare_folder", data=str(folder), out_tsv=str(out)) == 0
    keys = [key for key, _ in TsvFile(out)]
    assert sorted(keys) == ["a.jpg", "a.jpg.png", "a.png", "b/c", "other/d"]


def test_a_companion_that_is_of_other_rows_is_named(tmp_path: Path, out: Path, capsys: Any) -> None:
    write(tmp_path / "photos" / "a.jpg", jpeg(10))
    caption = write(tmp_path / "photos" / "a.txt", "a boat")
    keys = {"data": str(tmp_path / "photos"), "out_tsv": str(out)}
    assert prepare("prepare_folder", **keys) == 0 and "was there before" not in capsys.readouterr().err
    caption.unlink()
    assert prepare("prepare_folder", **keys) == 0
    assert f"{beside(out, 'caption')} was there before and is not of these rows" in capsys.readouterr().err


def test_parquet_files_as_the_hub_has_them(tmp_path: Path, out: Path, capsys: Any) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number, name in enumerate(["test-00000-of-00001", "train-00000-of-00002-ab12", "train-00001-of-00002-cd34"]):
        rows = {"file_name": ["x.jpg"], "image": [{"bytes": jpeg(10 * number), "path": None}], "said": [f"{number} 💋"]}
        path = write(tmp_path / "data" / f"{name}.parquet", "")
        parquet.write_table(arrow.table(rows), path)
    keys = {"data": str(tmp_path), "out_tsv": str(out), "caption_column": "said"}
    assert prepare("prepare_instagram", **keys) == 0
    assert images(out) == {"0": jpeg(10), "1": jpeg(20)}
    assert captions(beside(out, "caption")) == {"0": ["1 💋"], "1": ["2 💋"]}
    assert prepare("prepare_instagram", **keys, split="val") == 2
    assert "no split is called 'val', there are test, train" in capsys.readouterr().err
