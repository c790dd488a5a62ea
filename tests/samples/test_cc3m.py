import pickle

import pytest

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples.cc3m import Cc3m
from tests.pictures import contents, fault, jpeg


@pytest.fixture
def folder(tmp_path):
    """Four lines; the images of the second and the fourth, a stranger, and one past the last line."""
    lines = [f"caption {number} .\thttp://x.example/{number}.jpg" for number in range(4)]
    (tmp_path / "Train_GCC-training.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "train").mkdir()
    for number in (3, 1, 4):
        (tmp_path / "train" / f"{number:08}.jpg").write_bytes(jpeg(10 * number))
    (tmp_path / "train" / "notes.txt").write_text("")
    return tmp_path


def test_rows_are_the_images_that_are_there_and_the_others_are_counted(folder):
    data = pickle.loads(pickle.dumps(Cc3m(folder)))
    assert contents(data) == [("00000001", ("caption 1 .",), 10), ("00000003", ("caption 3 .",), 30)]
    assert (data.missing, data.kind) == (2, "CC3M, split train")
    assert data.inputs == (folder / "Train_GCC-training.tsv",)
    assert data.where(1).endswith("Train_GCC-training.tsv:4 (train/00000003.jpg)")


@pytest.mark.parametrize("images", ["validation", "val"])
def test_the_validation_split_has_its_own_table_and_folder(folder, images):
    (folder / "Validation_GCC-1.1.0-Validation.tsv").write_text("held out\thttp://x.example\n")
    (folder / images).mkdir()
    (folder / images / "00000000.jpg").write_bytes(jpeg(90))
    assert contents(Cc3m(folder, "val")) == [("00000000", ("held out",), 90)]
    assert len(Cc3m(folder)) == 2


def test_broken_lines_and_images_that_vanish_are_named(folder):
    (folder / "Train_GCC-training.tsv").write_text("a\tb\nno address\na\tb\n \tb\n")
    data = Cc3m(folder)
    assert "training.tsv:2 (train/00000001.jpg): found 1 columns, expected a caption, a tab and an address" in fault(
        data, 0
    )
    assert "training.tsv:4 (train/00000003.jpg): an empty caption" in fault(data, 1)
    (folder / "train" / "00000003.jpg").unlink()
    with pytest.raises(MissingImage, match=r"training\.tsv:4: no image .*train/00000003\.jpg$"):
        data.image(1)


def test_a_folder_without_table_or_images_is_refused(folder, tmp_path_factory):
    with pytest.raises(UsageError, match=r"neither Train_GCC-training\.tsv nor Validation_GCC-1\.1\.0-Validation\.tsv"):
        Cc3m(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UsageError, match="no split is called 'val', there are train"):
        Cc3m(folder, "val")
    (folder / "train").rename(folder / "other")
    with pytest.raises(
        UsageError, match=r"no folder train or training beside Train_GCC-training\.tsv.*download\.py --data_root"
    ):
        Cc3m(folder)
    (folder / "training").mkdir()
    with pytest.raises(DataError, match=r"training: no image of the 4 lines of Train_GCC-training\.tsv"):
        Cc3m(folder)
