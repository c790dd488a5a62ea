"""Annotation files of COCO: the images they list, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.samples.coco_images import CocoImages


def listed(folder: Path, document: Any, part: float = 1.0) -> CocoImages:
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val.json").write_text(json.dumps(document))
    return CocoImages(folder, "val", part, ImageReader(Transform(32)))


def test_ids_are_whole_numbers_or_texts(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": "b", "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}]
    assert listed(tmp_path, {"images": images}, 0.67).image_ids == [7, "b"]


@pytest.mark.parametrize(
    "entry",
    [
        {"id": {"a": 1}, "file_name": "a.jpg"},
        {"id": None, "file_name": "a.jpg"},
        {"id": True, "file_name": "a.jpg"},
        {"id": 1.5, "file_name": "a.jpg"},
        {"id": 1, "file_name": None},
        {"id": 1},
        "a.jpg",
    ],
)
def test_an_entry_that_is_no_image_is_named(tmp_path: Path, entry: Any) -> None:
    file = tmp_path / "annotations" / "captions_val.json"
    message = (
        f"{file}: entry 2 of 'images' is {json.dumps(entry)}, expected an 'id', a whole number or text, and a "
        "'file_name'"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        listed(tmp_path, {"images": [{"id": 1, "file_name": "a.jpg"}, entry]})


@pytest.mark.parametrize("document", [[], {}, {"images": {"id": 1}}, {"images": None}])
def test_a_document_without_a_list_of_images_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(DataError, match=r"captions_val\.json: expected COCO's annotations, with a list 'images'"):
        listed(tmp_path, document)
