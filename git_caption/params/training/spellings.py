"""Old spellings: the flags of the tools before this one, and which of our keys each of them sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from git_caption.params.fitting import BAD, fit


@dataclass(frozen=True)
class Spelling:
    """Old names of a key.

    Attributes:
        key: the key, one in another by its path.
        names: the old names; of one letter group and one dash where they begin with one.
        words: what values are called here, where they are not the same; None: that value leaves the key as it is.
        switch: whether it may stand alone, for True.
    """

    key: str
    names: tuple[str, ...]
    words: Mapping[str, Any] = field(default_factory=dict)
    switch: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The names as a command line has them."""
        return tuple(name if name.startswith("-") else f"--{name}" for name in self.names)

    def value(self, told: Any) -> Any:
        """The key's value for an old one; None where the key is left as it is."""
        boolean = fit(told, bool)
        word = str(told if boolean is BAD else boolean)
        return self.words.get(word, told)


SPELLINGS = (
    Spelling("data", ("data_dir", "train_data_path")),
    Spelling("image_encoder.name", ("image_encoder_type", "-iet")),
    Spelling("image_encoder.name", ("is_rn",), {"True": "RN50x4", "False": None}, switch=True),
    Spelling("image_encoder.output", ("output_grid", "output_gird"), {"True": "grid", "False": "pooled"}, switch=True),
    Spelling("mapper.type", ("mapping_type", "-mpt")),
    Spelling("mapper.normalize", ("normalize_prefix",), switch=True),
    Spelling("mapper.prefix_length", ("prefix_length",)),
    Spelling("mapper.clip_length", ("prefix_length_clip",)),
    Spelling("mapper.layers", ("num_layers", "num_layres")),
    Spelling("mixing", ("model_key",)),
    Spelling("language_model.name", ("language_model", "-lm")),
    Spelling("tune", ("only_prefix",), {"True": "mapper", "False": None}, switch=True),
    Spelling("tune", ("train_language_model",), {"True": "full", "False": "mapper"}, switch=True),
    Spelling("val_data", ("val_data_path",)),
    Spelling("report_to", ("report_to_wandb",), {"True": "wandb", "False": None}, switch=True),
    Spelling("warmup_steps", ("-ws",)),
    Spelling("output_dir", ("out_dir", "output_path", "output_folder", "model_path")),
    Spelling("epochs", ("total_epoch",)),
)

FILE_PREFIX = "prefix"
"""ClipCap's begin of file names: here a folder in the output directory, so that runs beside each other stay apart."""

SPLIT, SPLIT_DEVICES, SPLIT_BLOCKS = "pn", "123", "411"
"""Where the blocks of a language model end on each of several GPUs, and what its tool took these and the GPUs to be."""

_OF = {name: spelling for spelling in SPELLINGS for name in (*spelling.names, *spelling.flags)}


def spelling(name: str) -> Spelling | None:
    """The old spelling that `name` is, with or without its dashes; None where it is none."""
    return _OF.get(name) or _OF.get(f"-{name}")
