"""COCO: annotation files of 2014 and 2017, Karpathy's splits, and the file that ClipCap trains on.

    annotations/captions_train2014.json   {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    dataset_coco.json                     {"images": [{"filepath", "filename", "cocoid", "split", "sentences"}]}
    annotations/train_caption.json        [{"image_id", "caption"}], of Karpathy's train split

Images lie in the folder of that name (`train2014/`), under the folder that holds `annotations/`, or in its `images/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.samples.image_list import ImageList
from git_caption.samples.splits import choose, refuse

KARPATHY_TRAIN = "train+restval"  # with restval training has 113,287 images, without 82,783
CLIPCAP_PARTS = ("train2014", "val2014")


def is_annotations(document: Any) -> bool:
    """Whether a JSON document is an annotation file of COCO's."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def is_karpathy(document: Any) -> bool:
    """Whether a JSON document is one of Karpathy's (of COCO, Flickr8k or Flickr30k)."""
    images = document.get("images") if isinstance(document, dict) else None
    return bool(images) and isinstance(images, list) and isinstance(images[0], dict) and "sentences" in images[0]


def is_clipcap(document: Any) -> bool:
    """Whether a JSON document is a list of captions by image number."""
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"image_id", "caption"} <= first.keys() and "image" not in first


def image_info(folder: Path, split: str | None) -> Path | None:
    """The file of a test split's images, which have no annotations: `annotations/image_info_test2014.json`."""
    names = (f"image_info_{split}.json", f"annotations/image_info_{split}.json")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_image_info(path: Path, document: Any) -> ImageList:
    """Its images, without captions; those of test-dev lie in the folder of the whole test split.

    Raises DataError as `read_annotations`, or if there is no list of images.
    """
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DataError(f"{path}: expected an object with a list 'images'")
    listed = read_annotations(path, {"images": document["images"], "annotations": []})
    part = path.stem.removeprefix("image_info_").replace("-dev", "")
    listed.folders = (_root(path) / part, _root(path) / "images" / part, *listed.folders)
    return listed


def read_annotations(path: Path, document: dict[str, Any], split: str | None = None) -> ImageList:
    """An annotation file: a row for each image, also one without captions; without "file_name" it is `ID.jpg`.

    Raises DataError if there are no images, UsageError if a split is asked for: the file is one.
    """
    refuse(split, "a file of COCO annotations", str(path))
    part = path.stem.removeprefix("captions_")
    root = _root(path)
    listed = ImageList("COCO annotations", path, (root / part, root / "images" / part, root / "images", root), "image")
    names: dict[str, tuple[int, str]] = {}
    for number, image in enumerate(document["images"], 1):
        if isinstance(image, dict) and "id" in image:
            name = str(image.get("file_name", f"{image['id']}.jpg"))
            names[str(image["id"])] = (number, name)
            listed.add(number, name, [], str(image["id"]))
        else:
            listed.add_fault(number, 'expected an object with "id" and "file_name"')
    for number, annotation in enumerate(document["annotations"], 1):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if str(image_id) in names:
            listed.add(*names[str(image_id)], annotation.get("caption"), str(image_id))
        else:
            listed.add_fault(number, f"annotation {number} is of image {image_id}, which is not among the images")
    return listed.close()


def read_karpathy(path: Path, document: dict[str, Any], split: str | None = None) -> ImageList:
    """Karpathy's splits: `train`, `restval`, `val`, `test`, or several as `train+restval`, which None stands for.

    Raises DataError if an image has not what is expected, UsageError if a split is not there.
    """
    images = document["images"]
    for number, image in enumerate(images, 1):
        if not isinstance(image, dict) or not {"filename", "split", "sentences"} <= image.keys():
            raise DataError(f'{path}, image {number}: expected an object with "filename", "split" and "sentences"')
    there = {str(image["split"]) for image in images}
    if split is None:
        split = KARPATHY_TRAIN if "restval" in there else choose(there, None, str(path))
    parts = {choose(there, part, str(path)) for part in split.split("+")}
    root = _root(path)
    listed = ImageList(f"Karpathy's splits, {split}", path, (root, root / "images", root / "Images"), "image")
    listed.own_names = True  # of COCO they tell the folder, of Flickr there is none
    for number, image in enumerate(images, 1):
        if image["split"] not in parts:
            continue
        sentences = image["sentences"] if isinstance(image["sentences"], list) else []
        captions = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in sentences]
        name = "/".join(str(image[key]) for key in ("filepath", "filename") if key in image)
        listed.add(number, name, captions, str(image.get("cocoid", image["filename"])))
    return listed.close()


def read_clipcap(path: Path, document: list[Any], split: str | None = None) -> ImageList:
    """Captions by image number, of images in `train2014/` or, where they are not there, `val2014/`.

    Raises UsageError if a split is asked for: the file is one.
    """
    refuse(split, "a list of captions by image number", str(path))
    root = _root(path)
    listed = ImageList("ClipCap's list of captions", path, (root,), "entry")
    names: dict[int, str] = {}
    for number, entry in enumerate(document, 1):
        try:
            image_id = int(entry["image_id"])
            caption = entry["caption"]
        except (KeyError, TypeError, ValueError):
            listed.add_fault(number, 'expected an object with a number as "image_id" and a "caption"')
            continue
        if image_id not in names:
            candidates = [f"{part}/COCO_{part}_{image_id:012}.jpg" for part in CLIPCAP_PARTS]
            names[image_id] = next((name for name in candidates if (root / name).is_file()), candidates[0])
        listed.add(number, names[image_id], caption, str(image_id))
    return listed.close()


def _root(path: Path) -> Path:
    """The folder that a file of annotations speaks of."""
    return path.parent.parent if path.parent.name == "annotations" else path.parent
