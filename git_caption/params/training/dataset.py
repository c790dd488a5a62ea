"""What is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from git_caption.params.paths import several
from git_caption.params.schema import key

CHOSEN = ("split", "image_column", "caption_column")


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """The data set, what of it is drawn for a step, and what happens to rows that cannot be read."""

    data: str | None = key(
        None,
        help="the data set: a folder, table, tars or hub id in any format that validate_data knows, or a pickle of "
        "ClipCap's parse_coco.py; several with commas between are mixed; in its place image_tsv",
        kind="data_sets",
    )
    data_weights: tuple[float, ...] | None = key(
        None,
        help="how often pictures of each of several data sets are drawn, as 0.7,0.3; None: each picture once an epoch",
    )
    split: str | None = key(
        None,
        help="which part of `data`, where it has several; None: its train split; of several data sets one for all, or "
        "one each with commas between, as are features and columns",
    )
    image_column: str | None = key(None, help="column of a table that holds the images; None: found by its name")
    caption_column: str | None = key(None, help="column of a table that holds the captions; None: found by its name")
    features: str | None = key(
        None,
        help="what extract_features stored of the data's pictures, in their place, for a frozen image encoder; with "
        "commas, where there are several: for each data set a file of each image encoder",
        kind="input_files",
    )
    image_tsv: str | None = key(None, help="pictures: key, base64 of an image file", kind="input_file")
    caption_tsv: str | None = key(None, help="captions: key, JSON list of {'caption': ...}", kind="input_file")
    question_tsv: str | None = key(
        None,
        help="questions: key, JSON list of {'question': ..., 'answers': [{'answer': ...}]}; trained with the captions",
        kind="input_file",
    )
    captions_per_image: int = key(1, minimum=0, help="captions drawn for a picture in a step")
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
            for name in (*CHOSEN, "data_weights"):
                if getattr(self, name) is not None:
                    yield ("data", name), f"{name!r}: chooses from 'data', and there is none"
            if self.image_tsv is None:
                yield ("data", "image_tsv"), "missing key 'data', or 'image_tsv' and 'caption_tsv': what to train on"
            elif self.caption_tsv is None and self.question_tsv is None:
                message = "missing key 'caption_tsv', or 'question_tsv': the texts about 'image_tsv'"
                yield ("image_tsv", "caption_tsv"), message
        if not self.captions_per_image and not self.questions_per_image:
            message = "'captions_per_image' and 'questions_per_image' are both 0: nothing is drawn to train on"
            yield ("captions_per_image", "questions_per_image"), message
        yield from self.check_sets()
        if self.pickled and self.augment != "none":
            yield ("augment", "data"), "'augment': changes pictures, and a pickle of ClipCap's has none"

    def check_sets(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What is not told for each data set of a mixture, as (keys concerned, message)."""
        names = [] if self.data is None else several(self.data)
        for key_, values in self._told_of_each.items():
            if self.data is not None and len(values) not in (1, len(names)):
                message = f"{key_!r}: {len(values)} for {len(names)} data sets; expected one each"
                yield (key_, "data"), message
        if self.features is not None and len(names) > 1 and (files := len(several(self.features))) % len(names):
            yield ("features", "data"), f"'features': {files} for {len(names)} data sets; expected as many of each"
        if len({name.endswith(".pkl") for name in names}) > 1:
            yield ("data",), "'data': pickles of ClipCap's have features and no pictures: mix them with each other only"
        if self.data_weights is not None:
            if self.data is not None and len(self.data_weights) != len(names):
                message = f"'data_weights': {len(self.data_weights)} for {len(names)} data sets; expected one each"
                yield ("data_weights", "data"), message
            if any(weight <= 0 for weight in self.data_weights):
                message = f"'data_weights': expected numbers above 0, found {list(self.data_weights)}"
                yield ("data_weights",), message

    @property
    def _told_of_each(self) -> dict[str, list[str]]:
        """What is chosen of the data sets, for all or one by one."""
        return {name: value.split(",") for name in CHOSEN if (value := getattr(self, name)) is not None}

    @property
    def chosen(self) -> dict[str, str | None]:
        """Which data set is meant and what of it, for several may lie in the same files, or in none on this machine."""
        return {name: getattr(self, name) for name in ("data", *CHOSEN)}

    @property
    def sets(self) -> list[DatasetParams]:
        """The data sets that are mixed, each by itself; this one where it is one."""
        if self.data is None or len(names := several(self.data)) == 1:
            return [self]

        def of(number: int, values: list[str]) -> str | None:
            return (values[number] if len(values) > 1 else values[0]) or None

        files = [] if self.features is None else several(self.features)
        each = len(files) // len(names)  # a file of each image encoder
        found = []
        for number, name in enumerate(names):
            chosen: dict[str, Any] = {key_: of(number, values) for key_, values in self._told_of_each.items()}
            features = ",".join(files[number * each : (number + 1) * each]) or None
            found.append(replace(self, data=name, data_weights=None, features=features, **chosen))
        return found

    @property
    def pickled(self) -> bool:
        """Whether the data is a pickle of ClipCap's: captions and features at once."""
        return (self.data or "").endswith(".pkl")

    @property
    def stored(self) -> bool:
        """Whether features stand for the pictures; not where pictures are changed in each epoch."""
        return self.pickled or (self.features is not None and self.augment == "none")
