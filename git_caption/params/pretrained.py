"""Pretrained captioners: the names they are known by, and how one of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from git_caption.params.decoding import DecodingParams
from git_caption.params.model import AdapterConfig, PromptConfig, TransformConfig, WeightsSource
from git_caption.params.schema import key

# The names of microsoft/GenerativeImage2Text, and the repositories that hold the same weights for transformers.
GIT_MODELS = {
    f"GIT_{size.upper()}{f'_{task}' if task else ''}": f"microsoft/git-{size}{suffix}"
    for size in ("base", "large")
    for task, suffix in {
        "": "",
        "COCO": "-coco",
        "TEXTCAPS": "-textcaps",
        "VQAv2": "-vqav2",
        "TEXTVQA": "-textvqa",
        "VATEX": "-vatex",
        "MSRVTT_QA": "-msrvtt-qa",
    }.items()
} | {
    "GIT_LARGE_R": "microsoft/git-large-r",
    "GIT_LARGE_R_COCO": "microsoft/git-large-r-coco",
    "GIT_LARGE_R_TEXTCAPS": "microsoft/git-large-r-textcaps",
}

Part = Literal["image_encoder", "mapper", "decoder"]
"""What a pretrained captioner is made of; few of them have a mapper, weights between the two others."""


@dataclass(frozen=True)
class PretrainedConfig:
    """How a pretrained captioner of transformers is used; what it is made of is in its own config.json."""

    model_type: str = key(help="transformers' name of the architecture: blip, git, vision-encoder-decoder, ...")
    transform: TransformConfig = key(TransformConfig(), help="from image to pixels")
    prompt: PromptConfig = key(PromptConfig(), help="prompt templates")
    decoding: DecodingParams = key(DecodingParams(), help="decoding defaults of this captioner")
    quantization: Literal["none", "8bit", "4bit"] = key("none", help="precision of the linear layers of the text part")


@dataclass(frozen=True)
class DefaultsConfig:
    """How a captioner is used where nobody says: the file that stands beside an exported one."""

    prompt: PromptConfig = key(PromptConfig(), help="prompt templates")
    decoding: DecodingParams = key(DecodingParams(), help="decoding defaults of this captioner")


@dataclass(frozen=True)
class TunedConfig:
    """A pretrained captioner that was trained further: the config.json of its checkpoint."""

    captioner: WeightsSource = key(help="the pretrained captioner it was trained from, as transformers has it")
    stored: tuple[str, ...] = key((), help="the parts whose weights are in model.safetensors, not the captioner's own")
    adapter: AdapterConfig | None = key(None, help="LoRA on the decoder, in adapter/; None: there is none")
    prompt: PromptConfig = key(PromptConfig(), help="prompt templates")
    decoding: DecodingParams = key(DecodingParams(), help="decoding defaults of this captioner")
    versions: dict[str, str] = key(factory=dict, help="library versions that wrote the checkpoint")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Parts that there are not, as (keys concerned, message)."""
        for name in self.stored:
            if name not in get_args(Part):
                yield ("stored",), f"'stored': expected names of {', '.join(get_args(Part))}, found {name!r}"
