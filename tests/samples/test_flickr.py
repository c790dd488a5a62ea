import pytest

from git_caption.errors import UsageError
from git_caption.samples.flickr import read_flickr
from tests.pictures import contents, fault, jpeg


@pytest.fixture
def path(tmp_path):
    (tmp_path / "Images").mkdir()
    for number, name in enumerate(["a.jpg", "b.jpg"], 1):
        (tmp_path / "Images" / name).write_bytes(jpeg(10 * number))
    lines = ["a.jpg#0\ta dog .", "a.jpg#1\ta brown dog .", "b.jpg#0\ta cat ."]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "Flickr8k.token.txt"


def test_captions_of_an_image_come_together(path):
    data = read_flickr(path)
    assert contents(data) == [("a.jpg", ("a dog .", "a brown dog ."), 10), ("b.jpg", ("a cat .",), 20)]
    assert data.kind == "Flickr captions"


def test_a_split_is_a_list_of_images(path):
    (path.parent / "Flickr_8k.trainImages.txt").write_text("b.jpg\n")
    (path.parent / "Flickr_8k.testImages.txt").write_text("a.jpg\n")
    assert [row[0] for row in contents(read_flickr(path))] == ["b.jpg"]
    assert [row[0] for row in contents(read_flickr(path, "test"))] == ["a.jpg"]
    with pytest.raises(UsageError, match="no split is called 'dev', there are test, train"):
        read_flickr(path, "dev")


def test_broken_lines_are_named(path):
    with open(path, "a") as file:
        file.write("no number\tx\nc.jpg#0 no tab\n")
    data = read_flickr(path)
    assert [fault(data, row).split("token.txt:")[-1].split(":")[0] for row in (2, 3)] == ["4", "5"]
    with pytest.raises(UsageError, match="a Flickr folder without lists of images has no splits"):
        read_flickr(path, "train")


@pytest.mark.parametrize(("split", "images"), [(None, 6000), ("dev", 1000), ("test", 1000)])
def test_the_splits_of_flickr8k_have_five_captions_an_image(shared_data, split, images):
    data = read_flickr(shared_data / "flickr8k" / "Flickr8k.token.txt", split)
    assert len(data) == images
    assert all(len(data.texts(row).captions) == 5 for row in range(0, images, 50))
