"""One run of `train.py`: all its keys, in groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.paths import several
from git_caption.params.schema import group, key
from git_caption.params.training.dataset import DatasetParams
from git_caption.params.training.fusion import FusionParams
from git_caption.params.training.parts import CAPTIONING, PartsParams
from git_caption.params.training.presets import PresetName
from git_caption.params.training.prompting import PromptingParams
from git_caption.params.training.saving import SavingParams
from git_caption.params.training.scst import ScstParams
from git_caption.params.training.steps import ComputingParams, OptimisationParams
from git_caption.params.training.tuning import TuningParams
from git_caption.params.training.validation import ValidationParams

QUANTIZED = "weights in 8 or 4 bits stay as they are: 'tune' can be mapper or lora, without 'lora_merge'"
WHOLE_BITS = "a language model in 8 or 4 bits is not put in shards: leave one of the two out"


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """One run of `train.py`."""

    preset: PresetName | None = key(
        None, help="defaults of one of the tools before this one, under --config and flags; None: what the run implies"
    )
    dataset: DatasetParams = group(DatasetParams, "data")
    parts: PartsParams = group(PartsParams, "parts")
    fusion: FusionParams = group(FusionParams, "fusion")
    prompting: PromptingParams = group(PromptingParams, "base captioner")
    tuning: TuningParams = group(TuningParams, "what is trained")
    scst: ScstParams = group(ScstParams, "self-critical training")
    optimisation: OptimisationParams = group(OptimisationParams, "steps")
    computing: ComputingParams = group(ComputingParams, "computing")
    validation: ValidationParams = group(ValidationParams, "validation")
    saving: SavingParams = group(SavingParams, "what is written")

    @property
    def best_by(self) -> Literal["loss", "cider", "accuracy"]:
        """What the best validation is chosen by, with None settled."""
        return self.validation.best_by or ("cider" if self.parts.objective == "scst" else "loss")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Groups that do not go together, as (keys concerned, message)."""
        tuning, language_model = self.tuning, self.parts.language_model
        if tuning.changes_language_model and language_model and language_model.quantization != "none":
            asked = "lora_merge" if tuning.lora_merge else "tune"
            yield (asked, "language_model"), f"{asked!r}: {QUANTIZED}"
        is_new = self.parts.init_from is None and self.parts.captioner is None
        if not tuning.mapper_trained and is_new and self.parts.objective == "caption":
            new = "new layers of cross-attention have" if self.fusion.crosses else "a new mapper is random and has"
            message = f"{new} to be trained: set 'train_mapper', or go on from 'init_from'"
            yield ("train_mapper", "tune", "init_from"), message
        yield from self._check_fusion()
        yield from self._check_fsdp()
        if self.dataset.stored and self.parts.objective == "language":
            yield ("features", "objective"), "'features': objective language looks at no picture: leave them out"
        elif self.dataset.stored and (self.tuning.train_image_encoder or self.parts.objective == "contrastive"):
            yield (
                ("features", "train_image_encoder", "objective"),
                "'features': the image encoder is trained, so that its features change: leave one of the two out",
            )
        if self.prompting.prompted and self.parts.objective != "caption":
            message = f"objective {self.parts.objective} trains no captioner, before whose captions others could stand"
            yield ("prompted", "objective"), f"'prompted': {message}: leave it out"
        elif self.prompting.prompted and self.prompting.base_captioner is None and self.parts.init_from is None:
            message = "whose captions? Give 'base_captioner', or go on from 'init_from'"
            yield ("prompted", "base_captioner", "init_from"), f"'prompted': {message}"
        if (name := self.computing.spreads) is not None and self.parts.objective != "caption":
            yield (name, "objective"), f"{name!r}: splits the language model of a captioner: leave it out"
        yield from self._check_mixing()
        if self.parts.objective != "scst":
            for name in self.scst.given:
                message = f"{name!r}: an option of 'objective': 'scst', found 'objective': {self.parts.objective!r}"
                yield (name, "objective"), message
        if self.parts.captioner is not None and (self.dataset.pickled or self.dataset.features is not None):
            message = "'captioner': is trained from pictures, not from features; give 'data' with these, or 'image_tsv'"
            yield ("captioner", "features", "data"), message
        if self.parts.captioner is not None:
            others: dict[str, object] = {"prompted": self.prompting.prompted, "fusion": self.fusion.crosses}
            others |= {name: getattr(self.computing, name) for name in ("device_map", "device_split", "fsdp")}
            for name, given in others.items():
                if given:
                    yield ("captioner", name), f"{name!r}: not done with a pretrained 'captioner'; leave it out"
        yield from self._check_validation()

    def _check_mixing(self) -> Iterator[tuple[tuple[str, ...], str]]:
        parts, dataset, validated = self.parts, self.dataset, self.validation.dataset(self.dataset)
        names = [encoder.name for encoder in parts.image_encoders]
        if len(names) > 1 and parts.mixing is None and not self.fusion.crosses and parts.objective != "language":
            message = f"cnn, hprod or mix-qdim, for {len(names)} image encoders: {', '.join(map(repr, names))}"
            yield ("mixing", "image_encoder"), f"missing key 'mixing': {message}"
        if parts.mixing is not None and dataset.pickled:
            yield ("mixing", "data"), "'mixing': a pickle of ClipCap's holds the features of one image encoder"
        if parts.init_from is not None or dataset.pickled:
            return
        if parts.mixes_stored and dataset.features is None:
            message = "'mixing': name two image encoders, with commas, or give 'features', stored prefixes with commas"
            yield ("mixing", "image_encoder", "features"), message
        elif parts.mixes_stored and not dataset.stored:
            yield ("augment", "mixing"), "'augment': changes pictures, and stored prefixes are mixed: leave it out"
        elif parts.mixes_stored and self.validation.asked and self.validation.val_features is None:
            message = "missing key 'val_features': stored prefixes are mixed, and no picture is looked at"
            yield ("val_features", "mixing"), message
        if parts.mixes_stored and self.tuning.train_image_encoder:
            yield (
                ("train_image_encoder", "mixing"),
                "'train_image_encoder': there is none, for stored prefixes are mixed",
            )
        encoders = len(parts.image_encoders)
        for name, count in (*self._files("features", dataset), *self._files("val_features", validated)):
            if parts.mixes_stored and count < 2:
                yield (name, "mixing"), f"{name!r}: expected the prefixes of two captioners at least, found one file"
            elif encoders and count != encoders:
                message = f"a file of each of {encoders} image encoders is expected, found {count}"
                yield (name, "image_encoder"), f"{name!r}: {message}"

    def _check_fusion(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if not self.fusion.crosses:
            return
        if self.parts.mapper is not None:
            yield ("mapper", "fusion"), "'mapper': cross-attention takes features as they are; leave one of the two out"
        if self.parts.init_from is not None:
            yield ("init_from", "fusion"), "'fusion': 'init_from' brings it; leave one of them out"
        if self.parts.objective != "caption":
            message = f"'fusion': cross_attention is of captioners, and objective {self.parts.objective} trains none"
            yield ("fusion", "objective"), message
        if self.parts.mixing is not None or len(self.parts.image_encoders) > 1:
            yield (
                ("mixing", "image_encoder", "fusion"),
                "'mixing': is of prefixes, and cross-attention has none: name one image encoder and leave 'mixing' out",
            )
        if self.computing.compile:
            yield ("compile", "fusion"), "'compile': layers of cross_attention cannot be compiled; leave it out"

    def _check_fsdp(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if not self.computing.fsdp:
            return
        language_model = self.parts.language_model
        if self.parts.objective not in ("caption", "language"):
            message = f"shards what objective caption or language trains, found {self.parts.objective!r}: leave it out"
            yield ("fsdp", "objective"), f"'fsdp': {message}"
        if self.fusion.crosses:
            yield ("fsdp", "fusion"), "'fsdp': layers of cross_attention are not put in shards: leave it out"
        if language_model is not None and language_model.quantization != "none":
            yield ("fsdp", "language_model"), f"'fsdp': {WHOLE_BITS}"
        if self.optimisation.optimizer != "adamw":
            message = f"{self.optimisation.optimizer!r} does not take shards ('fsdp'); use adamw"
            yield ("optimizer", "fsdp"), f"'optimizer': {message}"

    def _files(self, name: str, dataset: DatasetParams | None) -> Iterator[tuple[str, int]]:
        """How many files of features each data set has, if it has any, under the name of their key."""
        if dataset is None or self.parts.objective != "caption" or any(dataset.check_sets()):
            return
        for one in dataset.sets:
            if one.features is not None:
                yield name, len(several(one.features))

    def _check_validation(self) -> Iterator[tuple[tuple[str, ...], str]]:
        validation = self.validation
        if validation.val_split is not None and validation.val_data is None and self.dataset.data is None:
            yield ("val_split", "val_data", "data"), "'val_split': a part of 'data' or 'val_data', and there is neither"
        contrastive = self.parts.objective == "contrastive"
        if self.parts.objective not in CAPTIONING and self.best_by != "loss":
            message = f"'best_by': {self.best_by} needs texts, and objective {self.parts.objective} makes none"
            yield ("best_by", "objective"), message
        set_ = validation.dataset(self.dataset)
        for _, message in () if set_ is None else set_.check_sets():
            yield ("val_data", "val_split", "val_features", "data"), f"validation set: {message}"
        if set_ is not None and set_.stored and (self.tuning.train_image_encoder or contrastive):
            yield (
                ("val_features", "val_data", "train_image_encoder", "objective"),
                "'val_features': the image encoder is trained, so that its features change: leave one of the two out",
            )
