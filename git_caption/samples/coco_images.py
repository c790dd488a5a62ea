"""A split of COCO: the images that an annotation file lists, as samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.samples.sample import Failure, ImageSample
from git_caption.tsv.rows import CaptionRow


class CocoImages:
    """The first `part` (0..1) of the images in `annotations/captions_TYPE.json`, in the file's order.

    The images lie in `TYPE/`, `images/TYPE/` or `images/` of the data folder. Runs in worker processes.
    Raises DataError if the annotation file is not COCO's.
    """

    def __init__(
        self,
        data_dir: str | Path,
        data_type: str,
        part: float,
        pixels: ImageReader,
        base_pixels: ImageReader | None = None,
    ) -> None:
        """`base_pixels`: as a base captioner reads images, where it takes pixels of its own."""
        self.folder = Path(data_dir)
        self.data_type = data_type
        self.annotations = self.folder / "annotations" / f"captions_{data_type}.json"
        self.pixels = pixels
        self.base_pixels = base_pixels
        try:
            images = json.loads(self.annotations.read_text(encoding="utf-8"))["images"]
            if not isinstance(images, list):
                raise TypeError(f"'images' is a {type(images).__name__}")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.annotations}: expected COCO's annotations, with a list 'images' of 'id' and 'file_name'"
            ) from error
        listed = [self._listed(number, image) for number, image in enumerate(images, 1)]
        self.listed = listed[: max(1, round(part * len(listed)))]

    @property
    def image_ids(self) -> list[int | str]:
        """The ids of the images, as the annotation file gives them."""
        return [image_id for image_id, _ in self.listed]

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file that says which images there are."""
        return (self.annotations,)

    def __len__(self) -> int:
        return len(self.listed)

    def _listed(self, number: int, image: Any) -> tuple[int | str, str]:
        image_id, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if isinstance(image_id, bool) or not isinstance(image_id, int | str) or not isinstance(name, str):
            raise DataError(
                f"{self.annotations}: entry {number} of 'images' is {json.dumps(image)[:80]}, expected an 'id', a "
                "whole number or text, and a 'file_name'"
            )
        return image_id, name

    def read(self, row: int) -> ImageSample | Failure:
        """The sample of an image, or a Failure with an empty caption."""
        image_id, name = self.listed[row]
        key = str(image_id)
        folders = (self.data_type, f"images/{self.data_type}", "images")
        found = [path for folder in folders if (path := self.folder / folder / name).is_file()]
        if not found:
            tried = ", ".join(folders)
            reason = f"{name}: no such image in {tried} of {self.folder}"
            return Failure(key, reason, [CaptionRow(key, ("",)).columns()])
        try:
            image = found[0].read_bytes()
            base_pixels = None if self.base_pixels is None else self.base_pixels(image)
            return ImageSample(key, self.pixels(image), base_pixels=base_pixels)
        except (DataError, OSError) as error:
            return Failure(key, f"{found[0]}: {error}", [CaptionRow(key, ("",)).columns()])
