"""The parts that rows of the learning table share: scenes, image encoders with their features, language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.families.places import write_placed
from benchmarks.families.pretrained import write_captioner
from benchmarks.families.recipe import TRAIN, Recipe
from benchmarks.families.styles import COUNTED, PLAIN, write_style

PICTURES = {"image_tsv": "$scenes/train.img.tsv", "caption_tsv": "$scenes/train.caption.tsv"}
QUESTIONS = {"question_tsv": "$scenes/train.question.tsv"}

WIDTH, LAYERS, HEADS = 128, 3, 4
POSITIONS = 256
VIT = {"layers": 3, "width": 128, "patch_size": 16}
# Times the position embeddings of a ViT: CLIP tells pictures apart by what is on them and hardly notes where.
PLACES = 6
SPREAD = 0.08  # of new weights: with the 0.02 that is meant for a width of 768, a model this narrow hardly attends
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_positions": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "initializer_range": SPREAD,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "opt": {
        "max_position_embeddings": POSITIONS,
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "init_std": SPREAD,
        "dropout": 0.0,
    },
    "llama": {
        "max_position_embeddings": POSITIONS,
        "hidden_size": WIDTH,
        "intermediate_size": 344,  # three matrices of this height are as many weights as two of 4 x 128
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "initializer_range": SPREAD,
        "tie_word_embeddings": True,
    },
}


def clip(epochs: int, vision_cfg: dict[str, Any], **others: Any) -> Recipe:
    """An image encoder trained against a text tower, as CLIP; `others` are keys of the encoder."""
    architecture = {
        "embed_dim": WIDTH,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 96, "head_width": 64, **vision_cfg},
    }
    keys = {
        **PICTURES,
        "objective": "contrastive",
        "output_dir": "$here",
        "image_encoder": {"name": "custom", "architecture": architecture, "output": "pooled", **others},
        "epochs": epochs,
        "bs": 128,
        "lr": 2e-3,
        "warmup_steps": 100,
        "schedule": "cosine",
    }
    return Recipe(TRAIN, keys)


def features(encoder: str, *, grid: bool) -> Recipe:
    """What an encoder gives for the train split."""
    keys = {
        "image_tsv": PICTURES["image_tsv"],
        "out": "$here/train.features",
        "image_encoder_type": f"${encoder}/model.safetensors",
        "output_grid": grid,
        "batch_size": 128,
    }
    return Recipe("extract_features", keys)


def language_model(model_type: str) -> Recipe:
    """A language model that has read the train split's texts, and seen nothing."""
    keys = {
        **PICTURES,
        **QUESTIONS,
        "objective": "language",
        "output_dir": "$here",
        "captions_per_image": 2,
        "questions_per_image": 2,
        "language_model": {
            "name": model_type,
            "architecture": {"model_type": model_type, **LANGUAGE_MODELS[model_type]},
        },
        "epochs": 2,
        "bs": 32,
        "lr": 2e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
    }
    return Recipe(TRAIN, keys)


def style(form: int) -> Recipe:
    """The train split's captions of one form."""
    keys = {"caption_tsv": PICTURES["caption_tsv"], "form": form, "out": "$here/train.caption.tsv"}
    return Recipe(write_style, keys)


def captioner(
    encoder: str, output: str, mapper: Mapping[str, Any] | None, language_model: str, **others: Any
) -> dict[str, Any]:
    """Keys of a captioner of shared parts, trained on stored features."""
    return {
        **PICTURES,
        "output_dir": "$here",
        "features": f"${encoder}_{output}/train.features",
        "image_encoder": {"name": f"${encoder}/model.safetensors", "output": output},
        "mapper": mapper,
        "language_model": {"name": f"${language_model}"},
        "decoding": {"num_beams": 1, "max_new_tokens": 64},
        "epochs": 2,
        "bs": 32,
        "lr": 1e-3,
        "warmup_steps": 100,
        "schedule": "cosine",
        "num_workers": 0,
        **others,
    }


def new_captioner(kind: str, language_model: str, encoder: str = "vit", places: int = PLACES) -> Recipe:
    """A captioner of transformers' own architecture that has learnt nothing but to see, and may be to read."""
    keys = {
        "kind": kind,
        "encoder": f"${encoder}/model.safetensors",
        "places": places,
        "language_model": f"${language_model}",
        "image_tsv": PICTURES["image_tsv"],
        "out": "$here",
    }
    return Recipe(write_captioner, keys)


def pretrained_captioner(kind: str, epochs: int) -> Recipe:
    """The captioner of one style. It learns to see while it learns to speak, so it takes longer than the others."""
    keys = {
        **PICTURES,
        "caption_tsv": "$plain/train.caption.tsv",
        "output_dir": "$here",
        "captioner": f"$new_{kind}",
        "tune": "full",
        "train_image_encoder": True,
        "image_encoder_lr": 5e-4,
        "decoding": {"num_beams": 1, "max_new_tokens": 64},
        "epochs": epochs,
        "bs": 32,
        "lr": 1e-3,
        "warmup_steps": 100,
        "schedule": "cosine",
        "num_workers": 0,
    }
    return Recipe(TRAIN, keys)


TRAINED = {"tune": "full"}
LINEAR = {"type": "linear"}
BEGUN = {**TRAINED, "epochs": 0.4}  # a captioner that has longer to go
PARTS: dict[str, Recipe] = {
    "scenes": Recipe("make_shapes", {"out_dir": "$here", "train": 20_000, "test": 500, "max_objects": 2}),
    "plain": style(PLAIN),
    "counted": style(COUNTED),
    "resnet": clip(4, {"layers": [1, 1, 1, 1], "width": 8}),
    "vit": clip(8, VIT),
    "placed": Recipe(write_placed, {"encoder": "$vit/model.safetensors", "times": PLACES, "out": "$here"}),
    "placed_vit": clip(6, VIT, weights={"id": "$placed/model.safetensors"}),
    "resnet_grid": features("resnet", grid=True),
    "resnet_pooled": features("resnet", grid=False),
    "vit_pooled": features("vit", grid=False),
    "placed_vit_grid": features("placed_vit", grid=True),
    **{name: language_model(name) for name in LANGUAGE_MODELS},
    "new_blip": new_captioner("blip", "gpt2"),
    "new_vit_gpt2": new_captioner("vit_gpt2", "gpt2"),
    "new_git": new_captioner("git", "gpt2"),
    "new_blip2": new_captioner("blip2", "opt", "placed_vit", places=1),
    "small_blip": pretrained_captioner("blip", epochs=3),
    "small_vit_gpt2": pretrained_captioner("vit_gpt2", epochs=3),
    "small_git": pretrained_captioner("git", epochs=6),
    "small_blip2": pretrained_captioner("blip2", epochs=6),
    "captioner": Recipe(
        TRAIN,
        captioner("resnet", "grid", LINEAR, "gpt2", caption_tsv="$plain/train.caption.tsv", **TRAINED),
    ),
    "begun": Recipe(TRAIN, captioner("resnet", "grid", LINEAR, "gpt2", **BEGUN)),
}
