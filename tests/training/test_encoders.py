"""Image encoders by name in `train.py` and in the checkpoints it leaves, from a hub cache, offline."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from git_caption.captioner.captioner import Captioner
from git_caption.jobs.shapes import make
from git_caption.params.model import TransformConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.training.main import main
from tests import hub_cache
from tests.written_clip import random_clip, visual_part, vit_tokens

DINO, SIGLIP = "facebook/dinov3-vits16-pretrain-lvd1689m", "google/siglip2-base-patch16-224"
DESCRIBED = "someone/their-clip"
CLIP, CLIP_REPOSITORY = "ViT-B-16-quickgelu:metaclip_400m", "timm/vit_base_patch16_clip_224.metaclip_400m"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {"image_size": 48, "layers": 1, "width": 64, "patch_size": 16}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make(ShapesDataParams(out_dir=str(folder), train=16, test=2))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A hub cache with a DINOv3, a SigLIP 2, one of open_clip's models and a CLIP of somebody's own, all tiny."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    home = tmp_path / "home" / "hub"
    dino = DINOv3ViTModel(DINOv3ViTConfig(**SIZES, image_size=48, patch_size=16, num_register_tokens=2))
    text = {**SIZES, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    siglip = SiglipModel(SiglipConfig(vision_config={**SIZES, "image_size": 48, "patch_size": 16}, text_config=text))
    size = {"height": 48, "width": 48}
    for name, model, processor in (
        (DINO, dino, DINOv3ViTImageProcessor(size=size)),
        (SIGLIP, siglip, SiglipImageProcessor(size=size)),
    ):
        source = tmp_path / "sources" / name
        model.save_pretrained(source)
        processor.save_pretrained(source)
        hub_cache.snapshot(home, name, source)

    real = open_clip.get_model_config

    def narrow(name: str):
        return {**copy.deepcopy(real(name)), "embed_dim": 24, "vision_cfg": VIT}

    monkeypatch.setattr(open_clip, "get_model_config", narrow)
    source = tmp_path / "sources" / "clip"
    source.mkdir()
    save_file(random_clip(VIT), source / "open_clip_model.safetensors")
    hub_cache.snapshot(home, CLIP_REPOSITORY, source)
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT}
    preprocess = {**HALVES, "interpolation": "bilinear", "resize_mode": "squash"}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    hub_cache.snapshot(home, DESCRIBED, source)
    return home


def run(data, out, encoder, **changes) -> int:
    values = {
        "output_dir": str(out),
        "image_tsv": str(data / "train.img.tsv"),
        "caption_tsv": str(data / "train.caption.tsv"),
        "image_encoder": encoder,
        "language_model": {
            "name": "small",
            "architecture": {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2},
        },
        "tune": "full",
        "vocab_size": 300,
        "bs": 8,
        "num_workers": 0,
        "device": "cpu",
        **changes,
    }
    path = Path(out).parent / f"{Path(out).name}.json"
    path.write_text(json.dumps(values))
    return main(["--config", str(path)])


EXPECTED = {
    DINO: (TransformConfig(48, **IMAGENET, interpolation="bilinear", resize="squash"), (10, 16)),
    SIGLIP: (TransformConfig(48, **HALVES, interpolation="bicubic", resize="squash"), (9, 16)),
    CLIP: (TransformConfig(48, interpolation="bicubic"), (10, 64)),
    DESCRIBED: (TransformConfig(48, **HALVES, interpolation="bilinear", resize="squash"), (10, 64)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_frozen_encoder_is_referred_to_and_found_again(name, data, cache, tmp_path, capsys):
    out = tmp_path / "frozen"
    assert run(data, out, {"name": name}) == 0, capsys.readouterr().err

    captioner = Captioner.load(out, device="cpu")
    transform, shape = EXPECTED[name]
    assert captioner.config.transform == transform
    assert captioner.config.image_encoder.weights.id == name
    assert len(captioner.config.image_encoder.weights.sha256) == 64
    assert not any(key.startswith("image_encoder.") for key in load_file(out / "model.safetensors"))
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    assert captioner.encode(captioner.pixels(picture)).values.shape == (1, *shape)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_trained_encoder_is_in_the_checkpoint_and_needs_its_source_no_more(name, data, cache, tmp_path, monkeypatch):
    out = tmp_path / "trained"
    assert run(data, out, {"name": name, "output": "pooled"}, train_image_encoder=True, input_resolution=64) == 0
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))

    captioner = Captioner.load(out, device="cpu")

    assert captioner.config.image_encoder.weights is None
    assert captioner.config.transform.resolution == 64
    stored = load_file(out / "model.safetensors")
    assert all(
        torch.equal(stored[f"image_encoder.{key}"], tensor)
        for key, tensor in captioner.network.image_encoder.state_dict().items()
    )
    again = tmp_path / "again"
    captioner.save(again)
    assert (again / "config.json").read_bytes() == (out / "config.json").read_bytes()


def test_a_run_goes_on_from_a_checkpoint_and_trains_its_encoder(data, cache, tmp_path):
    assert run(data, tmp_path / "first", {"name": DINO}) == 0
    brought = {"init_from": str(tmp_path / "first"), "language_model": None}
    assert run(data, tmp_path / "second", None, **brought, train_image_encoder=True) == 0

    config = Captioner.load(tmp_path / "second", device="cpu").config.image_encoder

    assert (config.name, config.weights, config.architecture["model_type"]) == (DINO, None, "dinov3_vit")


def test_the_features_of_a_frozen_clip_are_those_of_its_weights(data, cache, tmp_path):
    assert run(data, tmp_path / "run", {"name": CLIP}) == 0
    captioner = Captioner.load(tmp_path / "run", device="cpu")
    pixels = torch.randn(2, 3, 48, 48)
    file = next(cache.rglob("open_clip_model.safetensors"))

    with torch.no_grad():
        values = captioner.network.encode(pixels).values

    wanted = vit_tokens(visual_part(load_file(file)), pixels, patch=16, layers=1, heads=1)
    torch.testing.assert_close(values, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B/23", r"unknown image encoder 'ViT-B/23'\. Did you mean 'ViT-B/32'\?"),
        ("ViT-B-16:metaclip_400m", r"trained with QuickGELU .* use 'ViT-B-16-quickgelu:metaclip_400m'"),
        ("ViT-B-16", r"'ViT-B-16' is an architecture and names no weights"),
        ("facebook/dinov3-vitb16", r"facebook/dinov3-vitb16: .* not found in the cache .*'prefetch'"),
    ],
)
def test_an_encoder_that_cannot_be_had_says_why_in_one_line(name, message, data, cache, tmp_path, capsys):
    code = run(data, tmp_path / "out", {"name": name})
    error = capsys.readouterr().err

    assert code in (1, 2)
    assert error.count("\n") == 1
    assert re.search(message, error), error
