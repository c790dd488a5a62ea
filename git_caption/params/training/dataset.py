"""What is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """The data set, what of it is drawn for a step, and what happens to rows that cannot be read."""

    data: str | None = key(
        None,
        help="the data set: a folder, table, tars or hub id in any format that validate_data knows, or a pickle of "
        "ClipCap's parse_coco.py; in its place image_tsv",
        kind="data",
    )
    split: str | None = key(None, help="which part of `data`, where it has several; None: its train split")
    image_column: str | None = key(None, help="column of a table that holds the images; None: found by its name")
    caption_column: str | None = key(None, help="column of a table that holds the captions; None: found by its name")
    features: str | None = key(
        None,
        help="what extract_features stored of the data's pictures, in their place, for a frozen image encoder; a file "
        "of each with commas, where several are mixed",
        kind="input_files",
    )
    image_tsv: str | None = key(None, help="pictures: key, base64 of an image file", kind="input_file")
    caption_tsv: str | None = key(None, help="captions: key, JSON list of {'caption': ...}", kind="input_file")
    question_tsv: str | None = key(
        None,
        help="questions: key, JSON list of {'question': ..., 'answers': [{'answer': ...}]}; trained with the captions",
        kind="input_file",
    )
    captions_per_image: int = key(1, minimum=1, help="captions drawn for a picture in a step")
    questions_per_image: int = key(1, minimum=0, help="questions drawn for a picture in a step")
    augment: Literal["none", "crop", "crop_and_flip"] = key(
        "none",
        help="pictures changed anew in each epoch: crop shows a random part of 0.8 to 1 of the area, crop_and_flip "
        "also mirrors half of them, which makes 'left' and 'right' wrong; features are then not used",
    )
    lower_case: bool = key(False, help="captions are trained on in lower case and without their last full stop")
    max_caption_tokens: int | None = key(
        None,
        minimum=1,
        help="longer captions and answers are cut; None: where the language model has no more positions",
    )
    on_error: Literal["skip", "raise"] = key(
        "skip", help="a picture that cannot be read: skip leaves it out and lists it in skipped.tsv, raise ends the run"
    )
    max_errors: int | None = key(None, minimum=0, help="the run fails past so many skipped pictures; None: no bound")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Data that is missing or given twice, as (keys concerned, message)."""
        for name in ("image_tsv", "caption_tsv", "question_tsv"):
            if self.data is not None and getattr(self, name) is not None:
                yield ("data", name), f"'data' and {name!r} exclude each other; give one of them"
        if self.data is None:
            for name in ("split", "image_column", "caption_column"):
                if getattr(self, name) is not None:
                    yield ("data", name), f"{name!r}: chooses from 'data', and there is none"
            if self.image_tsv is None:
                yield ("data", "image_tsv"), "missing key 'data', or 'image_tsv' and 'caption_tsv': what to train on"
            elif self.caption_tsv is None:
                yield ("image_tsv", "caption_tsv"), "missing key 'caption_tsv': the captions of 'image_tsv'"

        if self.pickled and self.augment != "none":
            yield ("augment", "data"), "'augment': changes pictures, and a pickle of ClipCap's has none"

    @property
    def pickled(self) -> bool:
        """Whether the data is a pickle of ClipCap's: captions and features at once."""
        return (self.data or "").endswith(".pkl")

    @property
    def stored(self) -> bool:
        """Whether features stand for the pictures; not where pictures are changed in each epoch."""
        return self.pickled or (self.features is not None and self.augment == "none")
