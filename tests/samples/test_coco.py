import json

import pytest

from git_caption.errors import DataError, UsageError
from git_caption.samples import coco
from git_caption.samples.table import load_json
from tests.pictures import contents, fault, jpeg


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["train2014/t.jpg", "images/val2014/v.jpg", "val2014/r.jpg"], 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(10 * number))
    (tmp_path / "annotations").mkdir()
    return tmp_path


def test_annotations_give_each_image_with_its_captions(folder):
    document = {
        "images": [
            {"id": 7, "file_name": "v.jpg"},
            {"id": 9, "file_name": "gone.jpg"},
            {"id": 8, "file_name": "r.jpg"},
        ],
        "annotations": [
            {"image_id": 8, "caption": "first", "id": 1},
            {"image_id": 7, "caption": "second", "id": 2},
            {"image_id": 8, "caption": "third", "id": 3},
        ],
    }
    assert coco.is_annotations(document) and not coco.is_karpathy(document)
    path = folder / "annotations" / "captions_val2014.json"
    data = coco.read_annotations(path, document)
    assert [data.texts(row).captions for row in (0, 2)] == [("second",), ("first", "third")]
    assert [data.texts(row).key for row in (0, 2)] == ["7", "8"]
    assert data.image(0) == jpeg(20) and data.image(2) == jpeg(30)
    assert "captions_val2014.json, image 2 (gone.jpg): no caption" in fault(data, 1)
    with pytest.raises(UsageError, match="a file of COCO annotations has no splits"):
        coco.read_annotations(path, document, "val")


def test_annotations_that_are_broken_are_named(folder):
    document = {
        "images": [{"id": 7, "file_name": "v.jpg"}, {"file_name": "r.jpg"}, 5],
        "annotations": [{"image_id": 6, "caption": "x"}, "y", {"image_id": 7, "caption": None}],
    }
    data = coco.read_annotations(folder / "annotations" / "captions_val2014.json", document)
    causes = [fault(data, row).split("json, ")[-1] for row in range(len(data))]
    assert causes == [
        "image 1 (v.jpg): no caption, expected at least one",
        'image 2: expected an object with "id" and "file_name"',
        'image 3: expected an object with "id" and "file_name"',
        "image 1: annotation 1 is of image 6, which is not among the images",
        "image 2: annotation 2 is of image None, which is not among the images",
        "image 1: the caption is None, expected a text or a list of texts",
    ]
    with pytest.raises(DataError, match="no entry, expected images with captions"):
        coco.read_annotations(folder / "annotations" / "a.json", {"images": [], "annotations": []})


def karpathy_image(split, folder, name, number, *captions):
    sentences = [{"raw": caption, "tokens": caption.split()} for caption in captions]
    return {"split": split, "filepath": folder, "filename": name, "cocoid": number, "sentences": sentences}


@pytest.fixture
def karpathy(folder):
    images = [
        karpathy_image("train", "train2014", "t.jpg", 1, "one", "two"),
        karpathy_image("test", "val2014", "v.jpg", 2, "three"),
        karpathy_image("restval", "val2014", "r.jpg", 3, "four"),
    ]
    return folder / "dataset_coco.json", {"images": images, "dataset": "coco"}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, [("1", ("one", "two"), 10), ("3", ("four",), 30)]),
        ("train", [("1", ("one", "two"), 10)]),
        ("train+restval", [("1", ("one", "two"), 10), ("3", ("four",), 30)]),
        ("test", [("2", ("three",), 20)]),
    ],
)
def test_karpathys_train_split_takes_restval_unless_told(karpathy, split, expected):
    assert coco.is_karpathy(karpathy[1])
    assert contents(coco.read_karpathy(*karpathy, split)) == expected


def test_karpathys_files_of_flickr_have_no_filepath_and_no_restval(folder):
    image = {"split": "train", "filename": "f.jpg", "sentences": [{"raw": "x"}]}
    (folder / "f.jpg").write_bytes(jpeg(50))
    assert contents(coco.read_karpathy(folder / "dataset_flickr8k.json", {"images": [image]})) == [
        ("f.jpg", ("x",), 50)
    ]


def test_karpathys_file_is_checked(karpathy):
    path, document = karpathy
    with pytest.raises(UsageError, match="no split is called 'dev', there are restval, test, train"):
        coco.read_karpathy(path, document, "train+dev")
    document["images"][1] = {"filename": "x"}
    with pytest.raises(
        DataError, match=r'dataset_coco\.json, image 2: expected an object with "filename", "split" and'
    ):
        coco.read_karpathy(path, document)


def test_clipcaps_list_finds_images_of_both_parts(shared_data):
    root = shared_data / "legacy" / "clipcap_parse_coco" / "data" / "coco"
    path = root / "annotations" / "train_caption.json"
    document = load_json(path)
    assert coco.is_clipcap(document)
    data = coco.read_clipcap(path, document)
    captions: dict[str, list[str]] = {}
    for entry in document:
        captions.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    assert [(data.texts(row).key, list(data.texts(row).captions)) for row in range(len(data))] == list(captions.items())
    for row, number in enumerate(captions):
        [image] = root.glob(f"*2014/*_{int(number):012}.jpg")
        assert data.image(row) == image.read_bytes()


def test_clipcaps_list_is_checked(folder):
    document = [{"image_id": "7", "caption": "x"}, {"image_id": "seven", "caption": "x"}, 5]
    data = coco.read_clipcap(folder / "annotations" / "train_caption.json", document)
    assert "no image" in fault(data, 0) and "train2014/COCO_train2014_000000000007.jpg" in fault(data, 0)
    assert fault(data, 1).endswith('entry 2: expected an object with a number as "image_id" and a "caption"')
    assert "entry 3: expected" in fault(data, 2)


def test_images_without_a_name_are_called_by_their_id(shared_data):
    path = shared_data / "nice" / "nice_gt.json"
    document = json.loads(path.read_text())
    data = coco.read_annotations(path, document)
    assert len(data) == 5000
    by_id = {entry["image_id"]: entry["caption"] for entry in document["annotations"]}
    assert all(data.texts(row).captions == (by_id[data.texts(row).key],) for row in range(0, 5000, 100))
    assert f"{document['images'][0]['id']}.jpg nor in" in fault(data, 0)
