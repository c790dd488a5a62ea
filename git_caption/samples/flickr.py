"""Flickr8k and Flickr30k as their authors gave them: five captions an image in one text file.

    Flickr8k.token.txt              1000268201_693b08cb0e.jpg#0 TAB A child in a pink dress ...
    results_20130124.token          the same, of Flickr30k
    Flickr_8k.trainImages.txt       the images of a split, one a line; also of devImages, testImages

Images lie beside, or in a folder `Images`, `images`, `Flicker8k_Dataset`, `Flickr8k_Dataset` or `flickr30k-images`;
beside the folder of the texts where that is called `Flickr8k_text`.
"""

from __future__ import annotations

from pathlib import Path

from git_caption.samples.image_list import ImageList
from git_caption.samples.splits import choose, refuse

CAPTIONS = ("Flickr8k.token.txt", "results_20130124.token")
SPLITS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}
TEXTS = "Flickr8k_text"
FOLDERS = (
    "",
    "Images",
    "images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "flickr30k-images",
)


def image_folders(path: Path) -> tuple[Path, ...]:
    """Where images may lie that a file of captions names."""
    root = path.parent.parent if path.parent.name == TEXTS else path.parent
    return tuple(root / folder for folder in FOLDERS)


def read_flickr(path: Path, split: str | None = None) -> ImageList:
    """A file of captions; where lists of splits lie beside it, one split of them.

    Raises UsageError if the split is not there, DataError if the file is empty.
    """
    lists = {name: path.parent / file for name, file in SPLITS.items() if (path.parent / file).is_file()}
    wanted: frozenset[str] | None = None
    if lists:
        split = choose(lists, split, str(path))
        wanted = frozenset(lists[split].read_text(encoding="utf-8-sig").split())
    else:
        refuse(split, "a Flickr folder without lists of images", str(path))
    kind = "Flickr captions" if split is None else f"Flickr captions, split {split}"
    listed = ImageList(kind, path, image_folders(path), "line")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            name, tab, caption = line.rstrip("\r\n").partition("\t")
            image = name.rpartition("#")[0]
            if not tab or not image:
                listed.add_fault(number, "expected the name of an image, # and a number, a tab and a caption")
            elif wanted is None or image in wanted:
                listed.add(number, image, caption)
    return listed.close()
