"""Pretrained captioners: the names they are known by, and how one of them is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from git_caption.params.decoding import DecodingParams
from git_caption.params.model import PromptConfig, TransformConfig
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


@dataclass(frozen=True)
class PretrainedConfig:
    """How a pretrained captioner of transformers is used; what it is made of is in its own config.json."""

    model_type: str = key(help="transformers' name of the architecture: blip, git, vision-encoder-decoder, ...")
    transform: TransformConfig = key(TransformConfig(), help="from image to pixels")
    prompt: PromptConfig = key(PromptConfig(), help="prompt templates")
    decoding: DecodingParams = key(DecodingParams(), help="decoding defaults of this captioner")
    quantization: Literal["none", "8bit", "4bit"] = key("none", help="precision of the linear layers of the text part")
