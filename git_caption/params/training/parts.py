"""What is trained: the parts of a captioner, each new or pretrained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from git_caption.params.decoding import DecodingParams
from git_caption.params.infer import ModelParams
from git_caption.params.model import (
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    MixingType,
    PromptConfig,
    placeholders,
)
from git_caption.params.paths import several
from git_caption.params.schema import key

CAPTIONING = ("caption", "scst")
"""Objectives that train a captioner."""


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """The text tower that an image encoder is trained against (objective `contrastive`); thrown away after that."""

    width: int = key(128, minimum=1, help="width of its layers")
    layers: int = key(2, minimum=1, help="number of layers")
    heads: int = key(4, minimum=1, help="attention heads")
    context: int = key(64, minimum=1, help="longest text, in tokens")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A width that the heads cannot share, as (keys concerned, message)."""
        if self.width % self.heads:
            yield ("width", "heads"), f"'width': expected a multiple of 'heads', {self.heads}, found {self.width}"


@dataclass(frozen=True, kw_only=True)
class PartsParams:
    """A checkpoint to go on from, or parts to put together."""

    objective: Literal["caption", "scst", "contrastive", "language"] = key(
        "caption",
        help="caption: captions and answers by the language model; scst: a captioner, init_from, by the CIDEr of the "
        "captions it makes; contrastive: an image encoder from nothing, as CLIP; language: a language model on the "
        "texts alone",
    )
    init_from: str | None = key(
        None,
        help="checkpoint to go on from, or an old tool's file: it brings the parts and the vocabulary; what such a "
        "file does not say, the names of image_encoder and language_model do",
        kind="model",
    )
    captioner: str | None = key(
        None,
        help="a pretrained captioner to train: hub id or folder of a BLIP, BLIP-2, GIT or VisionEncoderDecoder (ViT "
        "and GPT-2), or a checkpoint that was trained from one; it brings the parts",
        kind="model",
    )
    image_encoder: ImageEncoderConfig | None = key(None, help="the visual tower; weights: where it starts from")
    language_model: LanguageModelConfig | None = key(
        None, help="the language model; with an architecture it starts from nothing"
    )
    mapper: MapperConfig | None = key(None, help="the network between the two; linear where not given")
    mixing: MixingType | None = key(
        None,
        help="several image encoders, whose names image_encoder.name gives with commas, each with a mapper, or stored "
        "prefixes in features: how their prefixes become one",
    )
    input_resolution: int | None = key(
        None, minimum=1, help="side of the pictures that the image encoder sees, in pixels; None: the encoder's own"
    )
    prompt: PromptConfig | None = key(None, help="prompt templates, kept in the checkpoint")
    decoding: DecodingParams | None = key(None, help="decoding defaults, kept in the checkpoint")
    clip_text: ClipTextConfig = key(ClipTextConfig(), help="the text tower of the contrastive objective")
    vocab_size: int = key(512, minimum=257, help="of the BPE trained on the texts, where the language model is new")

    @property
    def image_encoders(self) -> tuple[ImageEncoderConfig, ...]:
        """The image encoders that `image_encoder` names, one or several that are mixed."""
        if self.image_encoder is None:
            return ()
        return tuple(replace(self.image_encoder, name=name) for name in several(self.image_encoder.name))

    @property
    def mixes_stored(self) -> bool:
        """Whether prefixes that other captioners have stored are to be mixed: there is no image encoder."""
        return self.mixing is not None and self.image_encoder is None

    @property
    def initial(self) -> ModelParams | None:
        """The captioner that a run goes on from; None where its parts are put together."""
        if self.init_from is None:
            return None
        if not os.path.isfile(self.init_from):
            return ModelParams(model_path=self.init_from)
        return ModelParams(
            model_path=self.init_from,
            image_encoder_type=self.image_encoder.name if self.image_encoder else None,
            language_model=self.language_model.name if self.language_model else None,
        )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Parts that are missing, given twice or do not go together, as (keys concerned, message)."""
        if self.objective == "language":
            yield from self._check_language()
        elif self.captioner is not None:
            yield from self._check_captioner(self.captioner)
        elif self.objective == "scst" and self.init_from is None:
            message = "missing key 'init_from': objective scst goes on from a captioner that has been trained"
            yield ("init_from",), message
        elif self.init_from is not None:
            brought = ["mapper", "mixing", "input_resolution"]
            if not os.path.isfile(self.init_from):
                brought += ["image_encoder", "language_model"]
            for name in brought:
                if getattr(self, name) is not None:
                    yield ("init_from", name), f"{name!r}: 'init_from' brings it; leave one of them out"
            if self.objective == "contrastive":
                yield ("init_from", "objective"), "'init_from': a captioner's checkpoint holds no text tower"
        else:
            if self.image_encoder is None and self.mixing is None:
                yield ("image_encoder", "mixing"), "missing key 'image_encoder', or 'init_from': the visual tower"
            if self.language_model is None and self.objective == "caption":
                yield ("language_model",), "missing key 'language_model', or 'init_from': the language model"
        yield from self._check_prompt()
        yield from self._check_mixing()
        if self.objective == "contrastive" and self.image_encoder and self.image_encoder.output != "pooled":
            message = "'objective': contrastive compares pooled features: set 'image_encoder.output' to pooled"
            yield ("objective", "image_encoder"), message
        if self.language_model and self.language_model.architecture is not None and self.language_model.weights:
            message = "'language_model': 'architecture' makes a new one and 'weights' names one: leave one of them out"
            yield ("language_model",), message

    def _check_prompt(self) -> Iterator[tuple[tuple[str, ...], str]]:
        known = {"caption": set[str](), "question": {"{question}"}}
        for name in known if self.prompt is not None else ():
            for other in sorted(placeholders(getattr(self.prompt, name)) - known[name]):
                yield ("prompt",), f"'prompt.{name}': nothing is known to put in the place of {other}; leave it out"

    def _check_mixing(self) -> Iterator[tuple[tuple[str, ...], str]]:
        names = [encoder.name for encoder in self.image_encoders]
        concerned = ("mixing", "image_encoder")
        if "" in names:
            yield concerned, f"'image_encoder.name': expected names divided by commas, found {','.join(names)!r}"
        if len(names) == 1 and self.mixing is not None:
            yield concerned, f"'mixing': of two image encoders at least, and there is one, {names[0]!r}"
        if self.mixing is not None and self.objective != "caption":
            yield ("mixing", "objective"), f"'mixing': of captioners, and 'objective' is {self.objective}"
        if len(names) > 1 and self.image_encoder and (self.image_encoder.architecture or self.image_encoder.weights):
            message = "'image_encoder': 'architecture' and 'weights' are of one; several are told by their names alone"
            yield concerned, message
        if self.mapper is not None and self.mapper.type == "stored":
            yield ("mapper",), "'mapper.type': stored is what mixing makes of stored prefixes; name another"
        elif self.mapper is not None and self.mixes_stored and self.init_from is None:
            message = "'mapper': stored prefixes are mapped already; leave it out, or name image encoders"
            yield ("mapper", "mixing"), message

    def _check_captioner(self, captioner: str) -> Iterator[tuple[tuple[str, ...], str]]:
        if os.path.isfile(captioner):
            message = f"'captioner': {captioner!r} is a file; expected a hub id or a folder of transformers' files"
            yield ("captioner",), f"{message} (an old tool's file is one for 'init_from')"
        for name in ("init_from", "image_encoder", "language_model", "mapper", "mixing", "input_resolution"):
            if getattr(self, name) is not None:
                yield ("captioner", name), f"{name!r}: 'captioner' brings all parts; leave one of them out"
        if self.objective == "contrastive":
            yield ("captioner", "objective"), "'captioner': objective contrastive trains an image encoder from nothing"

    def _check_language(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.language_model is None:
            yield ("language_model",), "missing key 'language_model': what objective language trains"
        elif self.language_model.quantization != "none":
            message = "'language_model': in 8 or 4 bits it cannot be trained, and objective language trains it"
            yield ("language_model", "objective"), message
        for name in ("captioner", "init_from", "image_encoder", "mapper", "input_resolution"):
            if getattr(self, name) is not None:
                yield ("objective", name), f"{name!r}: objective language looks at no picture: leave it out"
