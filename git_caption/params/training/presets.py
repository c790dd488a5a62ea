"""Presets: what the tools before this one trained with, as defaults under the config file and the flags.

A preset is a table of keys, a key in another by its path (`mapper.type`). Nothing but the table depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from git_caption.params.model import MixingType
from git_caption.params.training.captioners import VISION_ENCODER_DECODER, captioner_family

PresetName = Literal["git", "clipcap", "clipcap_opt", "nice", "instagram", "blip", "vit_gpt2", "llama_ca"]


@dataclass(frozen=True)
class Case:
    """Defaults for runs whose `key` matches `pattern` (as file names are matched, in lower case)."""

    key: str
    pattern: str
    defaults: Mapping[str, Any]
    unless: Mapping[str, Any] = field(default_factory=dict)
    """Settings any of which takes the case back."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """Settings all of which it needs."""


@dataclass(frozen=True)
class Preset:
    """The defaults of one tool.

    Attributes:
        tool: the repository that they are from.
        defaults: key → value.
        cases: defaults that depend on other keys; they go before `defaults`.
        words: what values under an old spelling of a key are called here: key → value → value.
    """

    tool: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


# Both tools train with a linear fall of the learning rate from 2e-5 after 5000 steps.
_STEPS = {"epochs": 10, "bs": 40, "lr": 2e-5, "warmup_steps": 5000, "schedule": "linear"}

# parse_coco.py puts the image encoder's name into that of its pickle: oscar_split_RN50x4_train.pkl
_BY_FILE = tuple(
    Case("data", f"*_{name.replace('/', '_').lower()}[_.]*", {"image_encoder.name": name})
    for name in (
        *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
        *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
    )
)

# Both of the tool's scripts train the decoder of a captioner: AdamW as torch has it, a linear fall from the start.
_DECODER = {
    "tune": "lora",
    "epochs": 100,
    "lr": 1e-5,
    "warmup_steps": 0,
    "schedule": "linear",
    "weight_decay": 0.01,
    "seed": 42,
}
_BY_LORA = {"tune": "lora"}
_LORA = Case("tune", "lora", {"lora_rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.1})

# Mappers whose prefixes can be mixed, whatever the image encoders; the tool itself has one encoder.
_OF_ONE_LENGTH = tuple(
    case
    for kind in get_args(MixingType)
    for case in (
        Case("mixing", kind, {"image_encoder.output": "pooled"}, unless={"mapper.type": "transformer"}),
        Case("image_encoder.output", "pooled", {"mapper.type": "mlp"}, only={"mixing": kind}),
        Case("image_encoder.output", "grid", {"mapper.type": "transformer"}, only={"mixing": kind}),
    )
)

PRESETS: Mapping[PresetName, Preset] = {
    "git": Preset(
        tool="kevin671/generative-image-to-text",
        defaults={
            "data": "../data/conceptual",
            "image_encoder.name": "ViT-B/32",
            "image_encoder.output": "grid",
            "mapper.type": "linearLn",
            "mapper.prefix_length": 5,
            "language_model.name": "facebook/opt-2.7b",
            **_STEPS,
            "weight_decay": 0.01,
        },
        cases=(
            *_OF_ONE_LENGTH,
            Case("mapper.type", "mlp", {"image_encoder.output": "pooled"}),
            Case(
                "language_model.name",
                "*llama*",
                {"language_model.quantization": "8bit", "gradient_checkpointing": True},
                unless={"tune": "full"},
            ),
        ),
        words={"mapper.type": {"None": "linear", "transformer": "encoder_layer"}},
    ),
    "clipcap": Preset(
        tool="rmokady/CLIP_prefix_caption",
        defaults={
            "data": "./data/coco/oscar_split_train.pkl",
            "image_encoder.name": "ViT-B/32",
            "image_encoder.output": "pooled",
            "mapper.type": "mlp",
            "mapper.prefix_length": 10,
            "mapper.clip_length": 10,
            "mapper.layers": 8,
            "language_model.name": "gpt2",
            "tune": "full",
            **_STEPS,
            "weight_decay": 0.0,
        },
        cases=_BY_FILE,
    ),
    "clipcap_opt": Preset(
        tool="Jhryu30/cvpr2023_challenge_clipcap",
        defaults={
            "data": "./data/coco/oscar_split_ViT-B_32_train.pkl",
            "image_encoder.name": "ViT-B/32",
            "image_encoder.output": "pooled",
            "mapper.type": "transformer",
            "mapper.prefix_length": 32,
            "mapper.clip_length": 32,
            "mapper.layers": 8,
            "language_model.name": "facebook/opt-2.7b",
            "tune": "full",
            **_STEPS,
            "weight_decay": 0.01,
            "output_dir": "checkpoints/clipcap_opt",
        },
        cases=_BY_FILE,
        words={"language_model.name": {"opt": "facebook/opt-2.7b"}},
    ),
    "nice": Preset(
        tool="Jhryu30/cvpr2023_challenge_clipcap",
        defaults={
            "mixing": "cnn",
            "language_model.name": "facebook/opt-2.7b",
            "prompt.caption": "a photo of",
            "prompt.end": "\n",
            "decoding.num_beams": 5,
            "decoding.max_new_tokens": 30,
            "max_caption_tokens": 32,
            "tune": "mapper",
            "epochs": 10,
            "bs": 32,
            "lr": 5e-4,
            "warmup_steps": 5000,
            "schedule": "linear",
            "weight_decay": 0.01,
        },
    ),
    "instagram": Preset(
        tool="olafbrah/cs182proj",
        defaults={
            "data": "instagram_data",
            "tune": "full",
            "epochs": 5,
            "bs": 64,
            "lr": 1e-5,
            "schedule": "linear",
            "weight_decay": 0.01,
            "output_dir": "checkpoints/base",
        },
        # each of its scripts writes to a folder of its own
        cases=(
            Case("tune", "lora", {"output_dir": "checkpoints/lora"}),
            Case("tune", "head", {"output_dir": "checkpoints/frozen"}),
            Case("tune", "mapper", {"output_dir": "checkpoints/mapper"}),
            Case("prompted", "true", {"output_dir": "checkpoints/prompted"}),
        ),
    ),
    "blip": Preset(
        tool="sylee0520/Image-Captioning-CC3M",
        defaults={"captioner": "Salesforce/blip-image-captioning-base", "bs": 32, **_DECODER},
        cases=(_LORA, Case("captioner", "blip", {"lora_targets": "query,value,feed_forward"}, only=_BY_LORA)),
    ),
    "vit_gpt2": Preset(
        tool="sylee0520/Image-Captioning-CC3M",
        defaults={"captioner": "nlpconnect/vit-gpt2-image-captioning", "bs": 16, **_DECODER},
        cases=(
            _LORA,
            Case("captioner", f"{VISION_ENCODER_DECODER}/gpt2", {"lora_targets": "c_attn,c_fc"}, only=_BY_LORA),
        ),
    ),
    "llama_ca": Preset(
        tool="RaphValeri/ImageCaptioning",
        defaults={
            "data": "data/coco",
            "lower_case": True,
            "image_encoder.name": "ViT-B/32",
            "image_encoder.output": "pooled",
            "fusion": "cross_attention",
            "language_model.name": "huggyllama/llama-7b",
            "epochs": 5,
            "bs": 16,
            "lr": 1e-4,
            "warmup_steps": 0,
            "schedule": "constant",
            "weight_decay": 0.1,
            "betas": (0.9, 0.95),
        },
    ),
}


def implied(told: Mapping[str, Any]) -> PresetName | None:
    """The preset of a run that names none.

    Args:
        told: what config file and flags tell, but for Nones, by the names they tell it under.

    Returns:
        None where no tool did the like: a run that goes on from a checkpoint, trains an image encoder alone, or begins
        with a language model that has learnt nothing.
    """
    if "captioner" in told:
        by_decoder = captioner_family(str(told["captioner"])).startswith(VISION_ENCODER_DECODER)
        return "vit_gpt2" if by_decoder else "blip"
    if "nb_ca" in told or told.get("fusion") == "cross_attention":
        return "llama_ca"
    if "mixing" in told or "model_key" in told:
        named = any(name.removeprefix("-").startswith(("image_encoder", "iet", "is_rn")) for name in told)
        return "git" if named else "nice"
    if str(told.get("data")).endswith(".pkl"):
        return "clipcap"
    if "init_from" in told:
        return "instagram" if "data_dir" in told else None
    language_model = told.get("language_model")
    is_new = isinstance(language_model, Mapping) and language_model.get("architecture") is not None
    return None if is_new or told.get("objective") == "contrastive" else "git"
