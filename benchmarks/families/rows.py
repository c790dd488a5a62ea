"""The rows of the learning table: what is put together, and what of it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.families.parts import PICTURES, QUESTIONS

FAMILIES = {
    1: "Prefix, as the GIT tool",
    2: "ClipCap",
    3: "LoRA, head or mapper",
}
DECODING = {"num_beams": 1, "max_new_tokens": 64}


@dataclass(frozen=True)
class Row:
    """One captioner to train.

    Attributes:
        family: number of its model family.
        parts: what is put together, in words.
        trained: what of it is trained, in words.
        keys: of train.py; see `Recipe`.
        whole: whether it stands for its family, and is run again with another seed.
    """

    family: int
    parts: str
    trained: str
    keys: Mapping[str, Any]
    whole: bool = False

    @property
    def answers(self) -> bool:
        """Whether it is trained to answer questions."""
        return "question_tsv" in self.keys


def captioner(
    encoder: str, output: str, mapper: Mapping[str, Any], language_model: str, **others: Any
) -> dict[str, Any]:
    """Keys of a captioner of shared parts, trained on stored features."""
    return {
        **PICTURES,
        "output_dir": "$here",
        "features": f"${encoder}_{output}/train.features",
        "image_encoder": {"name": f"${encoder}/model.safetensors", "output": output},
        "mapper": mapper,
        "language_model": {"name": f"${language_model}"},
        "decoding": DECODING,
        "epochs": 3,
        "bs": 32,
        "lr": 1e-3,
        "warmup_steps": 100,
        "schedule": "cosine",
        "num_workers": 0,
        **others,
    }


TRAINED = {"train_language_model": True}
LINEAR, LINEAR_NORM = {"type": "linear"}, {"type": "linearLn"}
MLP = {"type": "mlp", "prefix_length": 10}
TRANSFORMER = {"type": "transformer", "prefix_length": 10, "clip_length": 10, "layers": 2, "heads": 4}


def git(
    output: str, mapper: Mapping[str, Any], language_model: str, encoder: str = "resnet", **others: Any
) -> dict[str, Any]:
    """Captions and answers, as the GIT tool."""
    return captioner(encoder, output, mapper, language_model, **QUESTIONS, **others)


ROWS: dict[str, Row] = {
    "git": Row(1, "ResNet grid, linear, GPT-2", "mapper, LM", git("grid", LINEAR, "gpt2", **TRAINED), whole=True),
    "git_norm": Row(1, "ResNet grid, linearLn, GPT-2", "mapper, LM", git("grid", LINEAR_NORM, "gpt2", **TRAINED)),
    "git_mlp": Row(1, "ResNet pooled, mlp, GPT-2", "mapper, LM", git("pooled", MLP, "gpt2", **TRAINED)),
    "git_transformer": Row(
        1, "ResNet grid, transformer, GPT-2", "mapper, LM", git("grid", TRANSFORMER, "gpt2", **TRAINED)
    ),
    "git_vit": Row(1, "ViT grid, linear, GPT-2", "mapper, LM", git("grid", LINEAR, "gpt2", "vit", **TRAINED)),
    "git_opt": Row(1, "ResNet grid, linear, OPT", "mapper, LM", git("grid", LINEAR, "opt", **TRAINED)),
    "git_llama": Row(1, "ResNet grid, linear, LLaMA", "mapper, LM", git("grid", LINEAR, "llama", **TRAINED)),
    "git_frozen": Row(1, "ResNet grid, transformer, GPT-2", "mapper", git("grid", TRANSFORMER, "gpt2")),
    "clipcap": Row(
        2, "ResNet pooled, mlp, GPT-2", "mapper, LM", captioner("resnet", "pooled", MLP, "gpt2", **TRAINED), whole=True
    ),
    "clipcap_prefix": Row(
        2, "ResNet pooled, transformer, GPT-2", "mapper", captioner("resnet", "pooled", TRANSFORMER, "gpt2")
    ),
}
