"""Folders of small captioners to pretrain: they load, and see what the CLIP sees whose eyes they have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.families.places import write_placed
from benchmarks.families.pretrained import KINDS, LAYERS, PATCH, SIDE, WIDTH, _pixels, write_captioner
from git_caption.captioner.captioner import Captioner
from git_caption.model.vision import ImageEncoder, build_image_encoder
from git_caption.params.model import ImageEncoderConfig
from tests import hub_cache

PLACES = 3.0
IMAGES = str(Path(__file__).resolve().parents[2] / "data" / "shapes" / "test.img.tsv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[ImageEncoder, Path]:
    vision = {"layers": LAYERS, "width": WIDTH, "patch_size": PATCH, "image_size": SIDE, "head_width": 64}
    architecture = {"embed_dim": WIDTH, "quick_gelu": True, "vision_cfg": vision}
    torch.manual_seed(0)
    encoder = build_image_encoder(ImageEncoderConfig("custom", architecture)).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if "ln_" in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    save_file(dict(encoder.state_dict()), path)
    dict(encoder.named_parameters())["visual.positional_embedding"].mul_(PLACES)
    return encoder, path


@pytest.mark.parametrize("kind", KINDS)
def test_a_captioner_to_pretrain_sees_as_its_clip(kind, clip, tmp_path):
    encoder, path = clip
    language_model = hub_cache.language_model(tmp_path / "lm", "opt" if kind == "blip2" else "gpt2")
    write_captioner(kind, str(path), PLACES, str(language_model), IMAGES, str(tmp_path / "new"))

    captioner = Captioner.load(tmp_path / "new", device="cpu")
    assert captioner.pixels(Path(IMAGES).with_name("example.jpg")).shape == (1, 3, SIDE, SIDE)
    model, pixels = captioner.network.model, _pixels(IMAGES)
    towers = {"git": lambda: model.git.image_encoder, "vit_gpt2": lambda: model.encoder}
    with torch.no_grad():
        found = towers.get(kind, lambda: model.vision_model)()(pixels).last_hidden_state
        expected = encoder(pixels).values
    if kind == "git":
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    else:  # without CLIP's first LayerNorm it is nearly the same
        alike = torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]
        assert float(alike) > 0.9
    assert len(captioner.caption([Path(IMAGES).with_name("example.jpg")], num_beams=1, max_new_tokens=3)) == 1


def test_the_position_embeddings_alone_are_multiplied(clip, tmp_path):
    encoder, path = clip
    write_placed(str(path), PLACES, str(tmp_path))
    found, expected = load_file(tmp_path / "model.safetensors"), encoder.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
