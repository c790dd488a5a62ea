"""What a path must be before a job starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from git_caption.params.paths import IMAGE_SUFFIXES, Kind, expand, fault, images, is_hub_id


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "data" / "test.img.tsv").write_text("")
    (tmp_path / "data" / "b.jpg").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("data/test.img.tsv", "input_file"),
        ("data", "input_dir"),
        ("data", "input_path"),
        ("data/b.jpg", "input_path"),
        ("data/*.jpg", "input_path"),
        (("data/b.jpg", "data/b.jpg"), "input_path"),
        ("data", "model"),
        ("gpt2", "model"),
        ("someone/captioner", "model"),
        ("new/deep/out.tsv", "output_file"),
        ("data/test.img.tsv", "output_file"),
        ("new", "output_dir"),
        ("data", "output_dir"),
    ],
)
def test_paths_that_serve(here: Path, value: Any, kind: Kind) -> None:
    assert fault(value, kind) is None


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("data/tst.img.tsv", "input_file", "no such file: 'data/tst.img.tsv'; did you mean 'data/test.img.tsv'?"),
        ("nowhere/x", "input_file", "no such file: 'nowhere/x'"),
        ("data", "input_file", "expected a file, found a folder: 'data'"),
        ("data/b.jpg", "input_dir", "expected a folder, found a file: 'data/b.jpg'"),
        ("zzz", "input_dir", "no such folder: 'zzz'"),
        ("data/*.png", "input_path", "no file matches 'data/*.png'"),
        ("dat*", "input_path", "no file matches 'dat*'"),
        ("empty", "input_path", f"'empty' holds no image, expected files ending in {', '.join(IMAGE_SUFFIXES)}"),
        (("data/b.jpg", "data"), "input_path", "expected a file, found a folder: 'data'"),
        ((), "input_path", "expected at least one path, found none"),
        ("", "input_file", "expected a path, found an empty text"),
        ("a\0b", "output_file", "expected a path, found a null character in 'a\\x00b'"),
        ("data/modle", "model", "no such checkpoint: 'data/modle'"),
        ("old/run/model_4.pt", "model", "no such checkpoint: 'old/run/model_4.pt'"),
        ("model.pt", "model", "no such checkpoint: 'model.pt'"),
        ("data", "output_file", "expected a file to write, found a folder: 'data'"),
        ("new/", "output_file", "expected a file to write, found a folder: 'new/'"),
        ("data/b.jpg", "output_dir", "expected a folder to write into, found a file: 'data/b.jpg'"),
    ],
)
def test_paths_that_do_not_serve(here: Path, value: Any, kind: Kind, message: str) -> None:
    assert fault(value, kind) == message


def test_the_images_of_a_folder_and_of_a_pattern(here: Path) -> None:
    (here / "data" / "deep" / "er").mkdir(parents=True)
    (here / "data" / "dir.jpg").mkdir()
    (here / "data" / "deep" / "er" / "a.jpg").touch()
    (here / "data" / "C.JPG").touch()
    assert images("data") == ["data/C.JPG", "data/b.jpg"]
    assert images("data/*") == ["data/C.JPG", "data/b.jpg", "data/test.img.tsv"]
    assert images("data/**/*.jpg") == ["data/b.jpg", "data/deep/er/a.jpg"]


def test_output_below_a_file_names_the_file(here: Path) -> None:
    found = fault("data/b.jpg/out.tsv", "output_file")
    assert found == f"cannot write 'data/b.jpg/out.tsv': {str(here / 'data' / 'b.jpg')!r} is a file, not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_looked_at(here: Path) -> None:
    (here / "data" / "b.jpg").chmod(0)
    assert fault("data/b.jpg", "input_file") == "no permission to read 'data/b.jpg'"
    (here / "data").chmod(0o500)
    assert "no permission to write 'data/out.tsv'" in str(fault("data/out.tsv", "output_file"))


def test_what_an_earlier_job_writes_counts_as_there(here: Path) -> None:
    promised = ["inference/a.tsv", "made"]
    assert fault("inference/a.tsv", "input_file", promised) is None
    assert fault("./made/test.img.tsv", "input_file", promised) is None
    assert fault("made2/test.img.tsv", "input_file", promised) == "no such file: 'made2/test.img.tsv'"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert expand("~/a.jpg") == "/home/someone/a.jpg"
    assert expand(("~/a.jpg", "b")) == ("/home/someone/a.jpg", "b")


def test_ids_and_paths_are_told_apart(here: Path) -> None:
    assert is_hub_id("decapoda-research/llama-7b-hf")
    assert not is_hub_id("data/model")  # data/ is here
    assert not is_hub_id("./model")
    assert not is_hub_id("a/b/c")
    assert not is_hub_id("weights.safetensors")
