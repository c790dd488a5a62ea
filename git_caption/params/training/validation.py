"""What a run is validated on, how often, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from git_caption.params.schema import key
from git_caption.params.training.dataset import DatasetParams

SETS = ("val_data", "val_split", "val_image_tsv")  # each of them names a validation set
OF_A_SET = ("val_caption_tsv", "val_question_tsv", "val_features", "validate_every", "best_by", "patience")


@dataclass(frozen=True, kw_only=True)
class ValidationParams:
    """The validation set, when it is looked at, and which weights are kept for it. Without a set there is none."""

    val_data: str | None = key(
        None,
        help="validation set, in any format that data takes; None with val_split: a part of data",
        kind="data_sets",
    )
    val_split: str | None = key(None, help="which part of val_data, or of data where there is no val_data")
    val_image_tsv: str | None = key(None, help="pictures of the validation set, as image_tsv", kind="input_file")
    val_caption_tsv: str | None = key(None, help="their captions, as caption_tsv", kind="input_file")
    val_question_tsv: str | None = key(None, help="their questions, as question_tsv", kind="input_file")
    val_features: str | None = key(None, help="features of the validation set, as features", kind="input_files")
    val_images: int | None = key(
        1000, minimum=1, help="pictures of the validation set that are used, chosen by the seed; None: all"
    )
    validate_every: int | None = key(
        None,
        minimum=1,
        help="steps between two validations; there is one after the last step, and after each epoch of so many",
    )
    best_by: Literal["loss", "cider", "accuracy"] | None = key(
        None,
        help="which validation was the best: its weights are those that the run leaves; accuracy: of answers; None: "
        "cider for objective scst, else loss",
    )
    patience: int | None = key(
        None, minimum=1, help="the run ends after so many validations without a new best; None: never before its end"
    )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A set that is given twice or in part, and keys without a set, as (keys concerned, message)."""
        for name in ("val_image_tsv", "val_caption_tsv", "val_question_tsv"):
            if getattr(self, name) is None:
                continue
            for other in ("val_data", "val_split"):
                if getattr(self, other) is not None:
                    yield (other, name), f"{other!r} and {name!r} exclude each other; give one of them"
        if self.val_image_tsv is not None and self.val_caption_tsv is None and self.val_question_tsv is None:
            message = "missing key 'val_caption_tsv', or 'val_question_tsv': the texts about 'val_image_tsv'"
            yield ("val_image_tsv", "val_caption_tsv"), message
        if not self.asked:
            given = [name for name in OF_A_SET if getattr(self, name) is not None]
            for name in given:
                message = f"{name!r}: there is no validation set; give 'val_data', 'val_split' or 'val_image_tsv'"
                yield (name, *SETS), message

    @property
    def asked(self) -> bool:
        """Whether there is a validation set."""
        return any(getattr(self, name) is not None for name in SETS)

    def falls_on(self, step: int, per_epoch: int) -> bool:
        """Whether there is a validation after this step of a run that goes on.

        Epochs shorter than `validate_every` have none of their own: a few pictures would be validated at each step.
        """
        every = self.validate_every or per_epoch
        return step % every == 0 or (step % per_epoch == 0 and per_epoch >= every)

    def dataset(self, trained: DatasetParams) -> DatasetParams | None:
        """The validation set, told as a data set to train on is; None where there is none.

        trained: what is trained on.
        """
        if not self.asked:
            return None
        return replace(
            trained,
            data=None if self.val_image_tsv is not None else self.val_data or trained.data,
            data_weights=None,
            split=self.val_split,
            image_tsv=self.val_image_tsv,
            caption_tsv=self.val_caption_tsv,
            question_tsv=self.val_question_tsv,
            features=self.val_features,
            augment="none",
        )
