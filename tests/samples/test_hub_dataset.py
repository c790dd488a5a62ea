import pickle
import sys

import pytest

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples.hub_dataset import HubDataset, is_saved
from tests.pictures import contents, jpeg


def test_without_the_package_the_cure_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path, whose in [(tmp_path, f"{tmp_path}: saved"), ("me/mine", "me/mine: no such file or folder; the hub's")]:
        with pytest.raises(UsageError, match=rf"^{whose} data sets need .* not installed: pip install datasets$"):
            HubDataset(path)


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def pictures(datasets, **columns):
    image = [{"bytes": jpeg(10), "path": None}, {"bytes": jpeg(20), "path": "b.jpg"}]
    rows = datasets.Dataset.from_dict({"picture": image, "caption": ["one", "two"], **columns})
    return rows.cast_column("picture", datasets.Image())


def test_a_saved_data_set_gives_the_bytes_that_were_saved(datasets, tmp_path):
    pictures(datasets).save_to_disk(tmp_path / "saved")
    assert is_saved(tmp_path / "saved") and not is_saved(tmp_path)
    data = pickle.loads(pickle.dumps(HubDataset(tmp_path / "saved")))
    assert contents(data) == [("0", ("one",), 10), ("1", ("two",), 20)]
    assert data.image(1) == jpeg(20)
    assert [path.suffix for path in data.inputs] == [".arrow"]
    assert data.where(1).endswith("saved, row 2")
    with pytest.raises(UsageError, match="a data set saved alone has no splits"):
        HubDataset(tmp_path / "saved", "train")


def test_splits_and_columns_are_chosen(datasets, tmp_path):
    rows = pictures(datasets, words=[["x", "y"], ["z"]])
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "saved")
    assert is_saved(tmp_path / "saved")
    data = HubDataset(tmp_path / "saved", caption_column="words")
    assert contents(data) == [("0", ("x", "y"), 10), ("1", ("z",), 20)]
    assert data.kind == "Hugging Face data set, split train"
    assert contents(HubDataset(tmp_path / "saved", "test")) == [("0", ("two",), 20)]
    with pytest.raises(UsageError, match="no split is called 'val', there are test, train"):
        HubDataset(tmp_path / "saved", "val")
    with pytest.raises(
        UsageError, match=r"none of the columns is called wrong; there are 'picture', 'caption', 'words'"
    ):
        HubDataset(tmp_path / "saved", caption_column="wrong")


def test_rows_that_lack_something_are_named(datasets, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(30))
    names = [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg"), None]
    rows = datasets.Dataset.from_dict({"image_path": names, "text": ["one", None, " "]})
    rows.save_to_disk(tmp_path / "saved")
    data = HubDataset(tmp_path / "saved")
    assert data.image(0) == jpeg(30)
    with pytest.raises(MissingImage, match=r"saved, row 2: no image .*gone\.jpg"):
        data.image(1)
    with pytest.raises(MissingImage, match=r"saved, row 3: no image in column 'image_path'"):
        data.image(2)
    with pytest.raises(DataError, match=r"saved, row 2: column 'text' holds NoneType, expected a text or a list"):
        data.texts(1)
    with pytest.raises(DataError, match=r"saved, row 3: an empty caption"):
        data.texts(2)


def test_what_cannot_be_opened_is_named(datasets, tmp_path):
    (tmp_path / "state.json").write_text("{")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="not a data set as save_to_disk writes it"):
        HubDataset(tmp_path)
    with pytest.raises(UsageError, match="nobody/nothing: no such folder, and no data set on the hub"):
        HubDataset("nobody/nothing")


def test_the_data_set_of_the_instagram_tool_is_read(datasets, shared_data):
    data = HubDataset(shared_data / "legacy" / "insta_lora" / "instagram_data")
    assert data.kind.endswith("split train") and len(data) > 0
    for row in range(len(data)):
        assert data.texts(row).captions[0].strip()
        assert len(data.image(row)) > 100
