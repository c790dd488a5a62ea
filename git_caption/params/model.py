"""What a captioner is made of: the config.json of a checkpoint directory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from git_caption.params.decoding import DecodingParams
from git_caption.params.schema import key

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CUSTOM = "custom"
BASE_CAPTION = "{caption}"
MixingType = Literal["cnn", "hprod", "mix-qdim"]
Fusion = Literal["prefix", "cross_attention"]


@dataclass(frozen=True)
class TransformConfig:
    """From an RGB image to pixels: resize, centre crop where there is one, normalisation."""

    resolution: int = key(224, minimum=1, help="side of the square that the image encoder sees, in pixels")
    mean: tuple[float, ...] = key(CLIP_MEAN, help="subtracted from each channel of [0, 1]")
    std: tuple[float, ...] = key(CLIP_STD, help="each channel is divided by it")
    interpolation: Literal["bicubic", "bilinear"] = key("bicubic", help="filter of the resize")
    exif: bool = key(True, help="turn the image as its EXIF orientation says")
    resize: Literal["crop", "squash", "keep"] = key(
        "crop",
        help="crop: shorter side to the resolution, middle square; squash: to the square, whatever the shape; keep: "
        "shorter side to the resolution, the whole image",
    )
    longest: int | None = key(None, minimum=1, help="keep: the longer side is at most this; None: no bound")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Three channels each, no division by zero, a bound only where it bounds, as (keys concerned, message)."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                yield (name,), f"{name!r}: expected 3 numbers, one for each of R, G and B, found {len(values)}"
        if self.longest is not None and self.resize != "keep":
            yield ("longest", "resize"), f"'longest': goes with 'resize': 'keep', found {self.resize!r}"
        if self.longest is not None and self.longest < self.resolution:
            yield (
                ("longest", "resolution"),
                f"'longest': expected at least the resolution {self.resolution}, found {self.longest}",
            )
        if any(value <= 0 for value in self.std):
            yield ("std",), f"'std': expected numbers above 0, found {list(self.std)}"


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a frozen part are, and which exactly."""

    id: str = key(help="repository on the Hugging Face hub, or a path")
    revision: str | None = key(None, help="commit of the repository")
    sha256: str | None = key(None, help="of the weights file; checked when loaded")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """A visual tower and which of its outputs is used."""

    name: str = key(
        help="ViT-B/32, RN50, ...; open_clip's MODEL:PRETRAINED, as ViT-B-32:laion2b_s34b_b79k; a hub id or folder of "
        "SigLIP 2 or DINOv3; or custom"
    )
    architecture: dict[str, Any] | None = key(
        None,
        help="for custom: open_clip's vision_cfg with embed_dim and quick_gelu beside it, or a transformers config "
        "with its model_type",
    )
    weights: WeightsSource | None = key(None, help="None: they are in model.safetensors")
    output: Literal["grid", "pooled"] = key("grid", help="one row per patch or cell, or the image embedding")
    keep_class_token: bool = key(True, help="grid of a ViT that has one: the class token stays, at index 0")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """An architecture where the name says nothing, as (keys concerned, message)."""
        if self.name == CUSTOM and self.architecture is None:
            yield ("name", "architecture"), "'architecture': needed where 'name' is 'custom', found none"


@dataclass(frozen=True)
class MapperConfig:
    """The network from features to the language model's width. Widths come from the loaded models.

    `stored` is none: the prefixes that other captioners made, of `prefix_length` rows, are given and mixed.
    """

    type: Literal["linear", "linearLn", "mlp", "transformer", "encoder_layer", "stored"] = key(help="kind of network")
    prefix_length: int = key(5, minimum=1, help="rows of the prefix (mlp, transformer)")
    clip_length: int = key(10, minimum=1, help="rows that the features become before the layers (transformer)")
    layers: int = key(8, minimum=1, help="layers (transformer)")
    heads: int = key(8, minimum=1, help="attention heads (transformer, encoder_layer)")
    normalize: bool = key(False, help="each row of features is divided by its Euclidean norm first")
    rows_attend: bool = key(True, help="rows see each other; False: each itself alone (encoder_layer)")


@dataclass(frozen=True)
class EncoderConfig:
    """An image encoder and how it sees images."""

    image_encoder: ImageEncoderConfig = key(help="the visual tower")
    transform: TransformConfig = key(help="from image to pixels")


@dataclass(frozen=True)
class MixingConfig:
    """How the prefixes of several image encoders become one."""

    type: MixingType = key(
        help="cnn: a 1 x 1 convolution over the encoders; hprod: a learnt weight for each number of each prefix, and "
        "their sum; mix-qdim: a linear layer over the rows of all, joined"
    )
    encoders: tuple[EncoderConfig, ...] = key(help="the image encoders after the first, each with its own mapper")
    mappers: tuple[str, ...] = key(
        (), help="of stored prefixes, sha256 of the mapper that made each; empty: the mappers are in model.safetensors"
    )


@dataclass(frozen=True)
class CrossAttentionConfig:
    """New layers in the language model, by which its texts look at the features."""

    blocks: tuple[int, ...] = key(help="blocks of the language model that a layer stands before, counted from 0")
    heads: int = key(minimum=1, help="attention heads of each layer")
    start_token: int = key(minimum=0, help="id of the token that stands for a prompt without tokens")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Blocks that are none, as (keys concerned, message)."""
        if not self.blocks or min(self.blocks) < 0 or len(set(self.blocks)) < len(self.blocks):
            yield ("blocks",), f"'blocks': expected different numbers from 0 on, found {list(self.blocks)}"


@dataclass(frozen=True)
class LanguageModelConfig:
    """A causal language model."""

    name: str = key(help="repository on the Hugging Face hub, folder, or any name where architecture says it all")
    architecture: dict[str, Any] | None = key(
        None, help="transformers config with its model_type, where the weights are in model.safetensors"
    )
    weights: WeightsSource | None = key(None, help="None: they are in model.safetensors")
    quantization: Literal["none", "8bit", "4bit"] = key("none", help="precision its linear layers are held in")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """An architecture that transformers can build, as (keys concerned, message)."""
        if self.architecture is not None and "model_type" not in self.architecture:
            yield ("architecture",), "'architecture': expected a transformers config with 'model_type', found none"


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA on the language model."""

    rank: int = key(16, minimum=1, help="width of the matrices beside each layer")
    alpha: float = key(32.0, above=0, help="what they give counts alpha / rank times")
    dropout: float = key(0.05, minimum=0, maximum=0.9, help="part of their inputs left out, in training")
    dora: bool = key(False, help="DoRA: the length of each column of weights is trained by itself")
    targets: str = key(
        "both", help="the linear layers they stand beside: attention, feed_forward, both, or names; several with commas"
    )


@dataclass(frozen=True)
class PromptConfig:
    """Templates of the text put before generation, and what ends a text."""

    caption: str = key("", help="prompt for captions, where the user gives none")
    question: str = key("{question}", help="prompt for answers; {question} stands for the question")
    chat: bool = key(False, help="prompts go through the chat template of the language model's tokenizer")
    system: str = key("", help="system message of the chat; empty: the template's own, or none")
    end: str = key("", help="text that ends captions and answers, as a new line does with BLIP-2; empty: the end token")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A question template that would drop the question, a message without a chat, as (keys concerned, message)."""
        if self.system and not self.chat:
            yield ("system", "chat"), "'system': a message of a chat, and 'chat' is False: set it to True"
        if "{question}" not in self.question:
            yield ("question",), f"'question': expected a template with {{question}} in it, found {self.question!r}"


def placeholders(template: str) -> set[str]:
    """What in a template stands for something else: words in braces, `{question}`."""
    return set(re.findall(r"\{\w*\}", template))


def base_template_fault(template: str) -> str | None:
    """Why a text is no template for a base captioner's caption; None where it is one."""
    if placeholders(template) == {BASE_CAPTION}:
        return None
    return f"expected a template with {BASE_CAPTION} in it and nothing else in braces, found {template!r}"


@dataclass(frozen=True)
class BaseCaptionerConfig:
    """A frozen captioner, and where in the prompt for captions its own caption of the picture stands."""

    template: str = key(help="prompt for captions; {caption} stands for the base captioner's caption")
    source: WeightsSource | None = key(None, help="the base captioner; None: it is in base/ of the checkpoint")
    image_encoder_type: str | None = key(None, help="image encoder of an old tool's file")
    language_model: str | None = key(None, help="language model of an old tool's file")
    decoding: DecodingParams = key(DecodingParams(), help="how its captions are decoded, where not as it says itself")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A template that would drop the caption, or asks for more, as (keys concerned, message)."""
        if (fault := base_template_fault(self.template)) is not None:
            yield ("template",), f"'template': {fault}"


@dataclass(frozen=True)
class CaptionerConfig:
    """Everything needed to rebuild a captioner, beside its weights and tokenizer."""

    image_encoder: ImageEncoderConfig = key(help="the visual tower")
    language_model: LanguageModelConfig = key(help="the causal language model")
    mapper: MapperConfig | None = key(None, help="the network between the two; None with fusion cross_attention")
    adapter: AdapterConfig | None = key(None, help="LoRA on the language model, in adapter/; None: there is none")
    transform: TransformConfig = key(TransformConfig(), help="from image to pixels")
    mixing: MixingConfig | None = key(None, help="further image encoders, and how prefixes are mixed; None: only one")
    prompt: PromptConfig = key(PromptConfig(), help="prompt templates")
    base: BaseCaptionerConfig | None = key(None, help="whose caption stands in the prompt for captions; None: nobody's")
    fusion: Fusion = key("prefix", help="how the image reaches the language model")
    cross_attention: CrossAttentionConfig | None = key(
        None, help="the layers of fusion cross_attention; None with fusion prefix"
    )
    temporal_positions: int = key(
        0, minimum=0, help="frames of a video that have a learnt position each; 0: the order of frames is not told"
    )
    decoding: DecodingParams = key(DecodingParams(), help="decoding defaults of this captioner")
    versions: dict[str, str] = key(factory=dict, help="library versions that wrote the checkpoint")

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """The image encoders, the first of several first."""
        first = EncoderConfig(self.image_encoder, self.transform)
        return (first,) if self.mixing is None else (first, *self.mixing.encoders)

    @property
    def joint_transform(self) -> TransformConfig:
        """The transform; where several encoders normalise the pixels, each as its own says, it leaves that to them."""
        if self.mixing is None:
            return self.transform
        return replace(self.transform, mean=(0.0,) * 3, std=(1.0,) * 3)

    @property
    def normalizes(self) -> bool:
        """Whether features are divided by their norm before the mapper; where several are mixed it does so itself."""
        return self.mapper is not None and self.mapper.normalize and self.mixing is None

    @property
    def mixes_stored(self) -> bool:
        """Whether prefixes are mixed that other captioners made: then no image is looked at."""
        return self.mixing is not None and bool(self.mixing.mappers)

    def with_encoders(self, encoders: Sequence[ImageEncoderConfig]) -> CaptionerConfig:
        """The same with other image encoders, as many."""
        first, *further = encoders
        if self.mixing is None:
            return replace(self, image_encoder=first)
        both = zip(self.mixing.encoders, further, strict=True)
        mixed = tuple(replace(old, image_encoder=new) for old, new in both)
        return replace(self, image_encoder=first, mixing=replace(self.mixing, encoders=mixed))

    def holding_encoders(self) -> CaptionerConfig:
        """The same with the weights of its image encoders in model.safetensors."""
        if self.mixes_stored:
            return self
        return self.with_encoders([replace(encoder.image_encoder, weights=None) for encoder in self.encoders])

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A fusion without its part, mixing of one encoder, stored prefixes unmixed, as (keys concerned, message)."""
        if self.mixing is not None and not self.mixing.encoders:
            yield ("mixing",), "'mixing.encoders': expected one at least beside 'image_encoder', found none"
        yield from self._check_fusion()
        if self.mapper is None:
            if self.mixing is not None:
                yield ("mixing", "mapper"), "'mixing': makes one prefix of several, and there is no mapper"
        elif (self.mapper.type == "stored") != self.mixes_stored:
            yield ("mapper", "mixing"), "'mapper.type': stored and 'mixing.mappers' go together, and one is missing"
        elif self.mixing is not None and self.mixes_stored and len(self.mixing.mappers) != len(self.encoders):
            message = f"expected one for each of {len(self.encoders)} encoders, found {len(self.mixing.mappers)}"
            yield ("mixing",), f"'mixing.mappers': {message}"

    def _check_fusion(self) -> Iterator[tuple[tuple[str, ...], str]]:
        parts = {"mapper": self.mapper, "cross_attention": self.cross_attention}
        own = "mapper" if self.fusion == "prefix" else "cross_attention"
        if parts[own] is None:
            yield (own, "fusion"), f"missing key {own!r}: the part that 'fusion': {self.fusion!r} needs"
        for name, part in parts.items():
            if part is not None and name != own:
                yield (name, "fusion"), f"{name!r}: 'fusion': {self.fusion!r} has none; leave one of the two out"
