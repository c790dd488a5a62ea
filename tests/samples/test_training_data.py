import os
import pickle

import pytest

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.pipeline.workers import read_chunks
from git_caption.samples import training_data
from git_caption.samples.columns import Columns, find_columns
from git_caption.samples.packed import PackedTexts
from git_caption.samples.sample import Failure
from git_caption.samples.splits import choose, refuse
from git_caption.samples.table import read_csv
from git_caption.samples.training_data import TrainingSample, TrainingSamples, checked_texts, read_image
from tests.pictures import jpeg

READER = ImageReader(Transform(4))


@pytest.fixture
def data(tmp_path):
    """Three good pictures, one damaged, one absent, one without a caption."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(10 * ord(name) % 250))
    (tmp_path / "d.jpg").write_bytes(jpeg(1)[:300])
    rows = ["a.jpg,one", "b.jpg,two", "d.jpg,three", "e.jpg,four", "b.jpg,five", "c.jpg,"]
    (tmp_path / "data.csv").write_text("\n".join(["image,caption", *rows]))
    return read_csv(tmp_path / "data.csv")


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_become_samples_or_failures_that_name_their_place(data, workers):
    source = TrainingSamples(data, READER)
    assert source.inputs == data.inputs
    [(_, items)] = read_chunks(source, [0], lambda _: range(len(source)), workers)
    good = [item for item in items if isinstance(item, TrainingSample)]
    assert [sample.texts.captions for sample in good] == [("one",), ("two", "five")]
    assert [abs(int(sample.pixels[0, 0, 0]) - 10 * ord(name) % 250) <= 2 for sample, name in zip(good, "ab")]  # noqa: B905
    bad = [item for item in items if isinstance(item, Failure)]
    assert [(item.key, list(item.lines)) for item in bad] == [("d.jpg", []), ("e.jpg", []), ("", [])]
    for item, cause in zip(
        bad,
        [
            r"data\.csv:4 \(d\.jpg\): damaged or truncated",
            r"data\.csv:5: no image .*e\.jpg nor in .*images$",
            r"data\.csv:7 \(c\.jpg\): an empty caption",
        ],
        strict=True,
    ):
        with pytest.raises(DataError, match=cause):
            raise DataError(item.reason)


def test_a_data_set_travels_to_another_process(data):
    again = pickle.loads(pickle.dumps(data))
    assert [again.texts(row) for row in (0, 1)] == [data.texts(row) for row in (0, 1)]
    assert again.image(1) == data.image(1)


def test_packed_texts_come_back_as_they_were():
    texts = ["", "a", "\u00e9\U0001f600", "\ud83d", "\udcff", "", "end"]
    packed = PackedTexts()
    for text in texts:
        packed.append(text)
    assert [packed[number] for number in range(len(packed))] == texts


def test_packed_texts_take_little_memory():
    packed = PackedTexts()
    for number in range(10_000):
        packed.append(f"{number:020}")
    assert len(pickle.dumps(packed)) < 10_000 * (20 + 8) + 1000


def test_captions_that_cannot_be_used_are_left_out_and_told():
    texts = checked_texts("k", ["a", " ", "b", None, "\ud83d"], "here")
    assert texts.captions == ("a", "b")
    assert [fault.split(" at ")[0] for fault in texts.left_out] == [
        "here: an empty caption",
        "here: the caption is None, expected a text",
        "here: the caption is not Unicode text",
    ]


@pytest.mark.parametrize(
    ("captions", "cause"),
    [
        ([], "no caption, expected at least one"),
        (["", "  "], "an empty caption; here: an empty caption"),
        ([None], "the caption is None, expected a text"),
        (["half \ud83d"], r"not Unicode text at 'half \\ud83d'"),
    ],
)
def test_captions_that_cannot_be_trained_on_are_named(captions, cause):
    with pytest.raises(DataError, match=rf"^here: .*{cause}"):
        checked_texts("k", captions, "here")


def test_the_first_image_that_is_there_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    assert read_image([tmp_path / "no" / "a", tmp_path / "a" / "inside", tmp_path / "a"], "here") == b"1"
    with pytest.raises(MissingImage, match=r"^here: no image .*no/a nor in .*other$"):
        read_image([tmp_path / "no" / "a", tmp_path / "other" / "a"], "here")


def test_what_is_no_image_file_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    monkeypatch.setattr(training_data, "LARGEST_IMAGE", 4)
    for path, cause in [
        (tmp_path / "pipe", "is no file"),
        (tmp_path, "is no file"),
        (tmp_path / "a\0b", "cannot be read: embedded null"),
        (tmp_path / "large", "has 5 bytes, expected an image of at most 4"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ]:
        with pytest.raises(DataError, match=cause) as caught:
            read_image([path], "here")
        assert not isinstance(caught.value, MissingImage)


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["train", "val"], None, "train"),
        (["train2014", "val2014"], None, "train2014"),
        (["val"], None, "val"),
        (["train", "validation"], "val", "validation"),
        (["val", "val2"], "val", "val"),
    ],
)
def test_a_split_is_train_unless_another_is_asked(names, asked, found):
    assert choose(names, asked, "here") == found


@pytest.mark.parametrize(
    ("names", "asked", "cause"),
    [
        (["a", "b"], None, "no split is called 'train', there are a, b: name one as 'split'"),
        (["a"], "b", "no split is called 'b', there are a"),
        (["train2017", "train2014"], None, "more than one split fits 'train', there are train2014, train2017"),
    ],
)
def test_a_split_that_cannot_be_told_is_refused(names, asked, cause):
    with pytest.raises(UsageError, match=f"^here: {cause}"):
        choose(names, asked, "here")
    with pytest.raises(UsageError, match="here: CSV has no splits, 'b' was asked for"):
        refuse("b", "CSV", "here")


def test_columns_are_found_by_name_or_as_told():
    assert find_columns(["id", " File_Name", "TEXT", "Split"], None, None, "t") == Columns(
        " File_Name", "TEXT", "Split"
    )
    assert find_columns(["text", "caption", "image"], None, None, "t") == Columns("image", "caption", None)
    assert find_columns(["text", "caption", "photo"], "Photo", "text", "t") == Columns("photo", "text", None)


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        (
            (None, None),
            r"none of the columns is called image or image_path .*; there are 'id', 'text': name one as 'im",
        ),
        (("id", "words"), r"none of the columns is called words; there are 'id', 'text': name one as 'caption_column'"),
    ],
)
def test_columns_that_are_not_there_are_answered_with_those_that_are(asked, cause):
    with pytest.raises(UsageError, match=f"^t: {cause}"):
        find_columns(["id", "text"], *asked, "t")


def test_real_photographs_named_in_a_csv_become_samples(photos, tmp_path):
    paths = sorted(photos.iterdir())
    (tmp_path / "data.csv").write_text("image,caption\n" + "".join(f"{path},{path.stem}\n" for path in paths))
    source = TrainingSamples(read_csv(tmp_path / "data.csv"), ImageReader(Transform(32)))
    samples = [source.read(row) for row in range(len(source))]
    assert [sample.texts.captions for sample in samples] == [(path.stem,) for path in paths]
    assert {sample.pixels.shape for sample in samples} == {(3, 32, 32)}
