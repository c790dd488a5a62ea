import json

import pytest

from git_caption.errors import DataError, UsageError
from git_caption.samples.open_data import open_data
from git_caption.tsv.rows import CaptionRow, ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests.pictures import contents, jpeg


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(10))
    return tmp_path


def write_tsvs(folder, name, *, answers=("yes",), questions=True):
    rows = {
        "img": ImageRow("k", jpeg(40)),
        "caption": CaptionRow("k", ("c",)),
        **({"question": QuestionRow("k", (Question(1, "q?", answers),))} if questions else {}),
    }
    for kind, row in rows.items():
        with TsvWriter(folder / f"{name}.{kind}.tsv") as out:
            out.write(row.columns())


def csv_of(folder):
    (folder / "data.csv").write_text("image,caption\na.jpg,one\n")


def jsonl_of(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "one"}\n')


def json_of(folder):
    (folder / "train.json").write_text('[{"text": "one", "image": "a.jpg"}]')


def flickr_of(folder):
    (folder / "Flickr8k.token.txt").write_text("a.jpg#0\tone\n")


def kaggle_of(folder):
    (folder / "captions.txt").write_text("image,caption\na.jpg,one\n")


def cc3m_of(folder):
    (folder / "Train_GCC-training.tsv").write_text("one\thttp://x.example\n")
    (folder / "train").mkdir()
    (folder / "train" / "00000000.jpg").write_bytes(jpeg(10))


def coco_of(folder, name="captions_train2014.json"):
    (folder / "annotations").mkdir(exist_ok=True)
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
    (folder / "annotations" / name).write_text(json.dumps(document))


def karpathy_of(folder):
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "one"}]}
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [image, {**image, "split": "restval"}]}))


def clipcap_of(folder):
    (folder / "annotations").mkdir()
    (folder / "train2014").mkdir()
    (folder / "train2014" / "COCO_train2014_000000000001.jpg").write_bytes(jpeg(10))
    (folder / "annotations" / "train_caption.json").write_text('[{"image_id": 1, "caption": "one"}]')


def tar_of(folder):
    import tarfile

    (folder / "a.txt").write_text("one")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name in ("a.jpg", "a.txt"):
            tar.add(folder / name, name)


@pytest.mark.parametrize(
    ("write", "file", "kind"),
    [
        (csv_of, "data.csv", "CSV"),
        (jsonl_of, "metadata.jsonl", "JSONL"),
        (json_of, "train.json", "JSON list"),
        (flickr_of, "Flickr8k.token.txt", "Flickr captions"),
        (kaggle_of, "captions.txt", "CSV"),
        (cc3m_of, "Train_GCC-training.tsv", "CC3M, split train"),
        (coco_of, "annotations/captions_train2014.json", "COCO annotations"),
        (karpathy_of, "dataset_coco.json", "Karpathy's splits, train+restval"),
        (clipcap_of, "annotations/train_caption.json", "ClipCap's list of captions"),
        (tar_of, "{00000..00000}.tar", "webdataset tars"),
    ],
)
def test_a_format_is_found_by_its_folder_and_by_its_file(folder, write, file, kind):
    write(folder)
    for path in (folder, folder / file, str(folder / file)):
        data = open_data(path)
        assert data.kind == kind
        [(_, captions, level)] = contents(data)
        assert (set(captions), level) == ({"one"}, 10)


def test_image_tsvs_come_with_captions_and_with_questions_that_have_answers(folder):
    write_tsvs(folder, "train")
    write_tsvs(folder, "test", answers=())
    write_tsvs(folder, "val", questions=False)
    data = open_data(folder)
    assert contents(data) == [("k", ("c",), 40)]
    assert data.texts(0).questions[0].answers == ("yes",)
    assert [path.name for path in data.inputs] == ["train.img.tsv", "train.caption.tsv", "train.question.tsv"]
    for other in (open_data(folder, split="test"), open_data(folder / "test.img.tsv"), open_data(folder, split="val")):
        assert other.texts(0).questions == ()
    with pytest.raises(UsageError, match="no split is called 'dev', there are test, train, val"):
        open_data(folder, split="dev")
    (folder / "val.caption.tsv").unlink()
    with pytest.raises(UsageError, match=r"val\.img\.tsv: no captions beside it, expected val\.caption\.tsv"):
        open_data(folder / "val.img.tsv")


def test_coco_is_chosen_by_split(folder):
    for name in ("captions_train2014.json", "captions_val2014.json", "captions_val2017.json"):
        coco_of(folder, name)
    assert open_data(folder).inputs[0].name == "captions_train2014.json"
    assert open_data(folder, split="val2017").inputs[0].name == "captions_val2017.json"
    with pytest.raises(UsageError, match="more than one split fits 'val', there are train2014, val2014, val2017"):
        open_data(folder, split="val")
    karpathy_of(folder)
    assert open_data(folder, split="val2017").inputs[0].name == "captions_val2017.json"
    assert open_data(folder, split="train").kind == "Karpathy's splits, train"
    with pytest.raises(UsageError, match=r"dataset_coco\.json and captions_train2014\.json.* are there: name the file"):
        open_data(folder)


def test_columns_and_splits_reach_the_format(folder):
    (folder / "data.csv").write_text("photo,words,split\na.jpg,one,train\na.jpg,two,val\n")
    found = open_data(folder, split="val", image_column="photo", caption_column="words")
    assert contents(found) == [("a.jpg", ("two",), 10)]


def test_columns_of_a_format_that_has_none_are_refused(folder):
    coco_of(folder)
    with pytest.raises(UsageError, match="COCO annotations: no columns to choose from; leave 'image_column'"):
        open_data(folder, caption_column="caption")


def test_a_folder_without_data_says_what_was_looked_for(folder):
    with pytest.raises(
        UsageError, match=r"no data set in it; looked for NAME\.img\.tsv .*CC3M.*COCO.*\*\.tar.*\*\.csv"
    ):
        open_data(folder)


def test_a_folder_with_several_data_sets_is_not_guessed_at(folder):
    csv_of(folder)
    json_of(folder)
    with pytest.raises(UsageError, match=r"2 files may be it \(data\.csv, train\.json\): name one"):
        open_data(folder)
    flickr_of(folder)
    assert open_data(folder).kind == "Flickr captions"
    cc3m_of(folder)
    with pytest.raises(
        UsageError, match=r"more than one data set in it \(Train_GCC-training\.tsv; Flickr8k\.token\.txt"
    ):
        open_data(folder)


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        ("gone.csv", UsageError, r"gone\.csv: no such file or folder, nor the id of a repository"),
        ("a.jpg", UsageError, r"a\.jpg: not a known format; expected \.img\.tsv, \.csv"),
        (
            "odd.json",
            DataError,
            r"odd\.json: a JSON dict that is no data set; expected a list of {\"image\", \"text\"}",
        ),
        ("gone.tar", UsageError, r"1 of 1 tars are not there"),
    ],
)
def test_what_is_no_data_set_is_refused(folder, name, error, cause):
    (folder / "odd.json").write_text('{"a": 1}')
    with pytest.raises(error, match=cause):
        open_data(str(folder / name))


def test_an_id_is_looked_for_on_the_hub(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="owner/name: no such file or folder; the hub's data sets"):
        open_data("owner/name")


def test_the_embedded_example_is_found():
    from pathlib import Path

    data = open_data(Path(__file__).parents[2] / "data" / "shapes", split="test")
    assert (len(data), len(data.texts(0).captions), data.texts(0).questions) == (500, 5, ())


def test_real_folders_are_found(shared_data):
    assert open_data(shared_data / "flickr8k").kind == "Flickr captions, split train"
    assert open_data(shared_data / "instagram").kind == "JSON list, split train"
    assert open_data(shared_data / "legacy/clipcap_parse_coco/data/coco").kind == "ClipCap's list of captions"
