"""NICE 2023: captions of photographs by their numbers.

    nice-val-5k.csv       public_id,caption_gt,category; in a test split without captions
    nice_gt.json          {"images": [{"id"}], "annotations": [{"image_id", "caption"}]}; or a list of {"image",
                          "caption"}

The image `ID.jpg` lies in `val/`, `test/`, `images/` or `NICE_val/` beside the file, or just beside it.
"""

from __future__ import annotations

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
    names, entries = table.csv_entries(path)
    key, caption = known(names, KEY), known(names, CAPTIONS)
    if key is None:
        raise UsageError(f"{path}: no column of numbers, expected public_id; there are {', '.join(names) or 'none'}")
    listed = ImageList("NICE", path, (), "line")
    for line, entry in entries():
        if isinstance(entry, str):
            listed.add_fault(line, entry)
        elif number := entry[key].strip().removesuffix(".jpg"):
            listed.add(line, f"{number}.jpg", [] if caption is None else entry[caption], number)
        else:
            listed.add_fault(line, f"no number in column {key!r}")
    return listed.close()
