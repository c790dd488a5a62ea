from __future__ import annotations

import pytest
import torch

from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_table import OPENAI_NAMES
from git_caption.model.openai_tower import Tower, described, name_of, of_name, of_type
from git_caption.model.vision import build_image_encoder
from git_caption.params.model import ImageEncoderConfig


@pytest.mark.parametrize(
    ("name", "output"), [("ViT-B/32", "pooled"), ("ViT-B/16", "grid"), ("RN50", "pooled"), ("RN50", "grid")]
)
def test_a_tower_is_told_from_its_shapes(name, output):
    with torch.device("meta"):
        encoder = build_image_encoder(ImageEncoderConfig(name=name, output=output))
    tower = described(encoder.visual.state_dict(), "file")
    assert name_of(tower) == name
    assert encoder.width == (tower.pooled_width if output == "pooled" else tower.grid_width)
    if output == "pooled":
        assert tower == of_name(name)


def test_no_two_towers_are_taken_for_one_another():
    for name in OPENAI_NAMES:
        tower = of_name(name)
        assert name_of(tower) == name
        if tower.patch is None:  # without attention pooling a ResNet's file tells less
            assert name_of(Tower(tower.layers, tower.width, None, None, None)) == name


def test_sizes_as_openai_published_them():
    assert of_name("ViT-L/14@336px") == Tower(24, 1024, 14, 336, 768)
    assert of_name("RN50x4") == Tower((4, 6, 10, 6), 80, None, 288, 640)
    assert str(of_name("ViT-B/32")) == "ViT, layers 12, width 768, patch 32, resolution 224"


def test_an_unknown_tower_becomes_an_architecture_that_can_be_built():
    tower = Tower((1, 1, 2, 1), 8, None, 64, 32)
    assert name_of(tower) == "custom"
    config = ImageEncoderConfig(name="custom", architecture=tower.architecture(64), output="pooled")
    assert described(build_image_encoder(config).visual.state_dict(), "file") == tower


@pytest.mark.parametrize("form", ["model_state_dict.pt", "model_jit.pt"])
def test_real_files_of_the_clip_package(form, shared_data):
    folder = shared_data / "legacy" / "openai_clip_vit_p16"
    assert of_type(str(folder / form)) == Tower(2, 128, 16, 64, 64)


def test_what_is_no_tower_says_so(tmp_path):
    with pytest.raises(WeightsError, match=r"file: no conv1.weight among the image encoder's tensors"):
        described({"stem.weight": torch.zeros(1)}, "file")
    with pytest.raises(WeightsError, match=r"file: the image encoder's tensors are of no tower"):
        described({"conv1.weight": torch.zeros(8, 3, 3, 3)}, "file")
    with pytest.raises(UsageError, match=r"image_encoder_type 'ViT-B-32': expected RN50, .*ViT-L/14@336px or a local"):
        of_type("ViT-B-32")
