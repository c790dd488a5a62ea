import gzip
import io
import json
import pickle
import tarfile

import pytest

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.samples import webdataset
from git_caption.samples.webdataset import WebDataset, tars_of
from tests.pictures import contents, fault, jpeg, picture


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    """Members in this order: name and bytes, or a TarInfo."""
    with tarfile.open(path, "w:", format=form) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_neighbours_of_one_key_are_a_sample(tmp_path, form):
    long = "x" * 90 + "/" + "y" * 90
    first = write_tar(
        tmp_path / "0.tar",
        [
            ("000.jpg", jpeg(10)),
            ("000.txt", "\u00e9t\u00e9\n".encode()),
            ("000.json", json.dumps({"caption": "not this"}).encode()),
            ("dir.a/001.json", json.dumps({"url": "u", "caption": ["one", "two"]}).encode()),
            ("dir.a/001.seg.png", b""),
            ("dir.a/001.PNG", picture(20, "PNG")),
        ],
        form,
    )
    second = write_tar(
        tmp_path / "1.tar", [(f"{long}.webp", picture(30, "WEBP", lossless=True)), (f"{long}.json", b'"three"')], form
    )
    data = pickle.loads(pickle.dumps(WebDataset([first, second])))
    assert contents(data) == [
        ("000", ("\u00e9t\u00e9",), 10),
        ("dir.a/001", ("one", "two"), 20),
        (long, ("three",), 30),
    ]
    assert data.inputs == (first, second)
    assert data.where(1) == f"{first}, sample 'dir.a/001'"


def test_samples_that_lack_something_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "LARGEST_TEXT", 20)
    good = jpeg(1)
    members = [
        ("a.jpg", good),
        ("b.txt", b"no picture"),
        ("c.jpg", good),
        ("c.json", b"{broken"),
        ("d.jpg", good),
        ("d.json", b'{"url": "x"}'),
        ("e.jpg", good),
        ("e.txt", b" "),
        ("f.jpg", good),
        ("f.txt", b"caf\xe9"),
        ("g.jpg", good),
        ("g.txt", b"x" * 21),
        ("h.cls", b"1"),
        ("i.jpg", good),
        ("i.json", b'{"caption": 5}'),
    ]
    data = WebDataset([write_tar(tmp_path / "x.tar", members)])
    causes = [fault(data, row) for row in range(len(data))]
    for cause, expected in zip(
        causes,
        [
            "x.tar, sample 'a': no caption, expected a member txt, caption, json beside the image",
            "x.tar, sample 'b': no image, expected a member jpg,",
            "x.tar, sample 'c': its JSON cannot be read",
            "x.tar, sample 'd': no caption in its JSON, expected it under caption, captions, text",
            "x.tar, sample 'e': an empty caption",
            "x.tar, sample 'f': the caption is not Unicode text",
            "x.tar, sample 'g': the caption has 21 bytes, expected at most 20",
            "x.tar, sample 'i': no caption in its JSON",
        ],
        strict=True,
    ):
        assert expected in cause
    with pytest.raises(MissingImage):
        data.image(1)


def test_links_and_paths_out_of_the_tar_are_only_names(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg(200))
    links = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = kind, str(tmp_path / "secret.jpg")
        links.append((link, b""))
    path = write_tar(
        tmp_path / "x.tar", [*links, ("a.txt", b"a link"), ("../../up.jpg", jpeg(40)), ("../../up.txt", b"up")]
    )
    data = WebDataset([path])
    assert "no image" in fault(data, 0)
    assert data.texts(1).captions == ("up",) and data.image(1) == jpeg(40)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["secret.jpg", "x.tar", "x.tar.index.json"]


def test_a_key_that_comes_again_is_another_sample(tmp_path):
    members = [("a.jpg", jpeg(10)), ("a.txt", b"one"), ("a.jpg", jpeg(20)), ("a.txt", b"two")]
    data = WebDataset([write_tar(tmp_path / "x.tar", members)])
    assert contents(data) == [("a", ("one",), 10), ("a", ("two",), 20)]


def test_a_tar_that_is_damaged_compressed_or_empty_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", jpeg(1) * 100), ("a.txt", b"x")])
    whole = path.read_bytes()
    for name, data in [("cut", whole[:2000]), ("gz", gzip.compress(whole)), ("text", b"no tar" * 500)]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: not a complete uncompressed tar"):
            WebDataset([tmp_path / name])
    second = whole.index(b"a.txt")  # a copy that ended there, in its header, behind it, before the end of the tar
    for size in (second, second + 100, second + 512, second + 1024):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.tar: not a complete uncompressed tar"):
            WebDataset([tmp_path / "cut.tar"])
    backwards = tarfile.TarInfo("a.jpg")
    backwards.size = -1024
    (tmp_path / "loop").write_bytes(backwards.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DataError, match="loop: not a complete uncompressed tar: a member of -1024 bytes"):
        WebDataset([tmp_path / "loop"])
    with pytest.raises(DataError, match=r"y\.tar: no sample in the tars, expected KEY\.jpg beside KEY\.txt or"):
        WebDataset([write_tar(tmp_path / "y.tar", [("readme.md", b"x")])])


def test_a_tar_that_changes_is_noticed(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", jpeg(1)), ("a.txt", b"x")])
    data = WebDataset([path])
    write_tar(path, [("b.jpg", jpeg(1) * 50), ("b.txt", b"x")])
    with pytest.raises(DataError, match=r"x\.tar: the tar changed while it was in use"):
        data.image(0)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.tar, sample 'a': cannot be read: No such file"):
        data.texts(0)


def test_headers_are_read_once_for_each_version_of_a_tar(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", [("\udce9.jpg", jpeg(10)), ("\udce9.txt", b"one")])
    first = contents(WebDataset([path]))
    index = tmp_path / "x.tar.index.json"
    written = index.read_bytes()

    opened = []
    read = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *given, **options: (opened.append(given), read(*given, **options))[1])
    assert contents(WebDataset([path])) == first == [("\udce9", ("one",), 10)] and not opened
    content = json.loads(written)
    place = [content["size"] - 1, 2]  # beyond the end
    for damaged in (written[:-9], b"[]", b"{}", json.dumps({**content, "samples": [["a", {"jpg": place}]]}).encode()):
        index.write_bytes(damaged)
        assert contents(WebDataset([path])) == first and len(opened) == 1
        assert index.read_bytes() == written
        opened.clear()

    write_tar(path, [("b.jpg", jpeg(20)), ("b.txt", b"two")])
    assert contents(WebDataset([path])) == [("b", ("two",), 20)]

    index.unlink()
    tmp_path.chmod(0o555)
    assert len(WebDataset([path])) == 1 and not index.exists()
    tmp_path.chmod(0o755)


def test_patterns_name_tars_in_order(tmp_path):
    names = [f"{part}-{number:02}.tar" for part in (1, 2) for number in range(8, 12)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    expected = [tmp_path / name for name in names]
    assert tars_of(f"{tmp_path}/{{1..2}}-{{08..11}}.tar") == expected
    assert tars_of(f"{tmp_path}/*.tar") == expected
    assert tars_of(f"{tmp_path}/1-08.tar") == expected[:1]


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("{00..02}.tar", r"3 of 3 tars are not there: .*00\.tar, .*01\.tar, .*02\.tar$"),
        ("{3..1}.tar", "names 0 tars, expected 1 to 1000000"),
        ("{0..9999999999}.tar", "names 10000000000 tars, expected 1 to 1000000"),
        ("*.tar", "no file matches"),
    ],
)
def test_patterns_of_tars_that_are_not_there_are_refused(tmp_path, pattern, cause):
    with pytest.raises(UsageError, match=cause):
        tars_of(f"{tmp_path}/{pattern}")
