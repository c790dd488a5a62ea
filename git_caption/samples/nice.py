"""NICE 2023: captions of photographs by their numbers.

    nice-val-5k.csv       public_id,caption_gt,category; in a test split without captions
    nice_gt.json          {"images": [{"id"}], "annotations": [{"image_id", "caption"}]}; or a list of {"image",
                          "caption"}

The image `ID.jpg` lies in `val/`, `test/`, `images/` or `NICE_val/` beside the file, or just beside it.
"""

from __future__ import annotations

import csv
from pathlib import Path

from git_caption.errors import DataError, UsageError
from git_caption.samples import coco, table
from git_caption.samples.columns import CAPTION, KEY, known
from git_caption.samples.image_list import ImageList

FOLDERS = ("val", "test", "images", "NICE_val", "NICE_test", "")
CAPTIONS = ("caption_gt", *CAPTION)


def read_nice(path: Path) -> ImageList:
    """A file of captions, or a folder with one. Raises UsageError if there is none, DataError if it is another."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".json"))
        if len(found) != 1:
            names = f"there are {', '.join(file.name for file in found)}" if found else "there is none"
            raise UsageError(f"{path}: expected one file of captions (.csv or .json), {names}: name one")
        path = found[0]
    if path.suffix.lower() == ".json":
        document = table.load_json(path)
        if isinstance(document, list):
            listed = table.read_json_list(path, document)
        elif coco.is_annotations(document):
            listed = coco.read_annotations(path, document)
        else:
            raise DataError(f"{path}: expected annotations in the form of COCO, lists 'images' and 'annotations'")
    else:
        listed = _csv(path)
    listed.kind = "NICE"
    listed.folders = tuple(path.parent / folder for folder in FOLDERS)
    return listed


def _csv(path: Path) -> ImageList:
    listed = ImageList("NICE", path, (), "line")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        key, caption = known(names, KEY), known(names, CAPTIONS)
        if key is None:
            raise UsageError(
                f"{path}: no column of numbers, expected public_id; there are {', '.join(names) or 'none'}"
            )
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return listed.close()
            except csv.Error as error:
                listed.add_fault(number, f"not CSV: {error}")
                continue
            if len(cells) == len(names):
                entry = dict(zip(names, cells, strict=True))
                listed.add(number, f"{entry[key]}.jpg", [] if caption is None else entry[caption], entry[key])
            elif cells:
                listed.add_fault(number, f"found {len(cells)} columns, expected {len(names)} as in the header")
