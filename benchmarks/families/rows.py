"""The rows of the learning table: what is put together, and what of it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.families.parts import BEGUN, LAYERS, LINEAR, PICTURES, QUESTIONS, TRAINED, captioner
from benchmarks.families.styles import COUNTED

FAMILIES = {
    1: "Prefix, as the GIT tool",
    2: "ClipCap",
    3: "LoRA, head or mapper: from a captioner of one caption style to another",
    4: "Mixing of several image encoders",
    5: "Model parallel: a language model split over devices, here CPU memory and disk",
    6: "Cross-attention in a frozen language model",
    7: "Prompted style transfer: after the captions of a base captioner",
    8: "Pretrained captioners: from one caption style to another",
    9: "Questions and answers, mixed with captions",
    10: "SCST: from a captioner that has not learnt all it can",
}
LINEAR_NORM = {"type": "linearLn"}
MLP = {"type": "mlp", "prefix_length": 10}
FROZEN = {"epochs": 5, "lr": 2e-3}  # a mapper alone has longer to go
TRANSFORMER = {"type": "transformer", "prefix_length": 20, "clip_length": 20, "layers": 2, "heads": 4}


@dataclass(frozen=True)
class Row:
    """One captioner to train.

    Attributes:
        family: number of its model family.
        parts: what is put together, in words.
        trained: what of it is trained, in words.
        keys: of train.py; see `Recipe`.
        whole: whether it stands for its family, and is run again with another seed.
        style: the form that its captions have to be in; None: any.
    """

    family: int
    parts: str
    trained: str
    keys: Mapping[str, Any]
    whole: bool = False
    style: int | None = None

    @property
    def answers(self) -> bool:
        """Whether it is trained to answer questions."""
        return "question_tsv" in self.keys


def git(
    output: str, mapper: Mapping[str, Any], language_model: str, encoder: str = "resnet", **others: Any
) -> dict[str, Any]:
    """Captions and answers, as the GIT tool."""
    return captioner(encoder, output, mapper, language_model, **QUESTIONS, **others)


def clipcap(mapper: Mapping[str, Any], encoder: str = "resnet", **others: Any) -> dict[str, Any]:
    """Captions from one pooled row."""
    return captioner(encoder, "pooled", mapper, "gpt2", **others)


def restyled(trained: str, *, family: int = 3, whole: bool = False, **tuning: Any) -> Row:
    """From the captioner of the plain style to the counted one."""
    keys = {
        **PICTURES,
        "caption_tsv": "$counted/train.caption.tsv",
        "output_dir": "$here",
        "init_from": "$captioner",
        "features": "$resnet_grid/train.features",
        "epochs": 1,
        "bs": 32,
        "lr": 1e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
        "num_workers": 0,
        **tuning,
    }
    return Row(family, "ResNet grid, linear, GPT-2", trained, keys, whole, COUNTED)


SPLIT = captioner("resnet", "pooled", TRANSFORMER, "opt", **FROZEN, device_split="cpu:1,disk")
CROSSING = captioner("resnet", "grid", None, "gpt2", fusion="cross_attention", nb_ca=LAYERS, epochs=3, lr=2e-3)
MIXED = {
    **clipcap(MLP, **TRAINED),
    "image_encoder": {"name": "$resnet/model.safetensors,$vit/model.safetensors", "output": "pooled"},
    "features": "$resnet_pooled/train.features,$vit_pooled/train.features",
    "mixing": "hprod",
    "epochs": 3,
}
SCST = {
    **PICTURES,
    "output_dir": "$here",
    "objective": "scst",
    "init_from": "$begun",
    "features": "$resnet_grid/train.features",
    "tune": "full",
    "epochs": 0.25,
    "bs": 32,
    "lr": 1e-4,
    "warmup_steps": 10,
    "num_workers": 0,
}


def pretrained(kind: str, parts: str, *, whole: bool = False) -> Row:
    """From a pretrained captioner of the plain style to the counted one."""
    keys = {
        **PICTURES,
        "caption_tsv": "$counted/train.caption.tsv",
        "output_dir": "$here",
        "captioner": f"$small_{kind}",
        "tune": "lora",
        "epochs": 1,
        "bs": 32,
        "lr": 2e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
        "num_workers": 0,
    }
    return Row(8, parts, "LoRA r 16", keys, whole, COUNTED)


EIGHT_BITS = {"name": "$llama", "quantization": "8bit"}
ROWS: dict[str, Row] = {
    "git": Row(1, "ResNet grid, linear, GPT-2", "mapper, LM", git("grid", LINEAR, "gpt2", **TRAINED), whole=True),
    "git_norm": Row(1, "ResNet grid, linearLn, GPT-2", "mapper, LM", git("grid", LINEAR_NORM, "gpt2", **TRAINED)),
    "git_mlp": Row(1, "ResNet pooled, mlp, GPT-2", "mapper, LM", git("pooled", MLP, "gpt2", **TRAINED)),
    "git_transformer": Row(
        1, "ResNet grid, transformer, GPT-2", "mapper, LM", git("grid", TRANSFORMER, "gpt2", **TRAINED)
    ),
    "git_encoder_layer": Row(
        1,
        "ResNet pooled, encoder_layer, GPT-2",
        "mapper, LM",
        git("pooled", {"type": "encoder_layer", "heads": 4}, "gpt2", epochs=3, **TRAINED),
    ),
    "git_vit": Row(
        1, "ViT grid, linear, GPT-2", "mapper, LM", git("grid", LINEAR, "gpt2", "placed_vit", epochs=3, **TRAINED)
    ),
    "git_opt": Row(1, "ResNet grid, linear, OPT", "mapper, LM", git("grid", LINEAR, "opt", **TRAINED)),
    "git_llama": Row(1, "ResNet grid, linear, LLaMA", "mapper, LM", git("grid", LINEAR, "llama", **TRAINED)),
    "git_frozen": Row(1, "ResNet grid, transformer, GPT-2", "mapper", git("grid", TRANSFORMER, "gpt2", **FROZEN)),
    "git_8bit": Row(
        1,
        "ResNet grid, transformer, LLaMA in 8 bits",
        "mapper",
        {**git("grid", TRANSFORMER, "llama", **{**FROZEN, "epochs": 4}), "language_model": EIGHT_BITS},
    ),
    "clipcap": Row(2, "ResNet pooled, mlp, GPT-2", "mapper, LM", clipcap(MLP, **TRAINED), whole=True),
    "clipcap_prefix": Row(2, "ResNet pooled, transformer, GPT-2", "mapper", clipcap(TRANSFORMER, **FROZEN)),
    "clipcap_vit": Row(2, "ViT pooled, mlp, GPT-2", "mapper, LM", clipcap(MLP, "vit", **TRAINED)),
    "lora_16": restyled("mapper, LoRA r 16", tune="lora", lora_rank=16, whole=True),
    "lora_4": restyled("mapper, LoRA r 4", tune="lora", lora_rank=4),
    "lora_64": restyled("mapper, LoRA r 64", tune="lora", lora_rank=64),
    "head": restyled("head", tune="head"),
    "mapper": restyled("mapper", tune="mapper", epochs=8, lr=1e-2),
    "full": restyled("mapper, LM", tune="full"),
    "mixing": Row(4, "ResNet and ViT pooled, mlp, hprod, GPT-2", "mappers, mixing, LM", MIXED, whole=True),
    "split": Row(5, "ResNet pooled, transformer, OPT", "mapper", SPLIT, whole=True),
    "crossing": Row(6, "ResNet grid, cross-attention, GPT-2", "cross-attention", CROSSING, whole=True),
    "prompted": restyled("mapper, LM", family=7, tune="full", prompted=True, whole=True),
    "blip": pretrained("blip", "BLIP", whole=True),
    "vit_gpt2": pretrained("vit_gpt2", "ViT, GPT-2"),
    "pretrained_git": pretrained("git", "GIT"),
    "blip2": pretrained("blip2", "BLIP-2 with OPT"),
    "vqa": Row(
        9,
        "ResNet grid, linear, GPT-2; 4 questions and a caption a picture",
        "mapper, LM",
        git("grid", LINEAR, "gpt2", questions_per_image=4, **TRAINED),
        whole=True,
    ),
    "begun": Row(
        10, "ResNet grid, linear, GPT-2: the start", "mapper, LM", captioner("resnet", "grid", LINEAR, "gpt2", **BEGUN)
    ),
    "scst": Row(10, "ResNet grid, linear, GPT-2: from there", "mapper, LM", SCST, whole=True),
}
