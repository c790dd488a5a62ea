from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_table import known_of, pretrained
from git_caption.model.vision import build_image_encoder, encoder_transform
from git_caption.params.model import CLIP_MEAN, CLIP_STD, ImageEncoderConfig, TransformConfig, WeightsSource
from tests.written_clip import clip_file, random_clip

VIT = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def test_every_set_of_weights_of_open_clip_has_a_repository_and_a_transform():
    for model, tag in open_clip.list_pretrained():
        known = pretrained(f"{model}:{tag}")
        table = open_clip.get_pretrained_cfg(model, tag)
        assert table["hf_hub"] in (f"{known.repository}/{known.file or ''}", f"{known.repository}/"), (model, tag)
        transform = encoder_transform(ImageEncoderConfig(name=f"{model}:{tag}"))
        assert transform.resize == {"shortest": "crop", "squash": "squash"}[table["resize_mode"]]
        assert (transform.mean, transform.std) == (tuple(table["mean"]), tuple(table["std"]))
        assert transform.interpolation == table["interpolation"]


def test_no_set_of_weights_is_refused_by_every_spelling():
    """Some model of each repository runs the activation that its weights were trained with."""
    fitting = set()
    for model, tag in open_clip.list_pretrained():
        runs = bool(open_clip.get_model_config(model).get("quick_gelu", False))
        known = pretrained(f"{model}:{tag}")
        if runs == known.quick_gelu:
            fitting.add(known.repository)
    assert fitting == {pretrained(f"{model}:{tag}").repository for model, tag in open_clip.list_pretrained()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B/32", TransformConfig(224)),
        ("ViT-L/14@336px", TransformConfig(336)),
        ("ViT-B-32:laion2b_s34b_b79k", TransformConfig(224, CLIP_MEAN, CLIP_STD, "bicubic", resize="crop")),
        ("ViT-B-16-SigLIP2-256:webli", TransformConfig(256, **HALVES, interpolation="bicubic", resize="squash")),
        ("MobileCLIP-S1:datacompdr", TransformConfig(256, (0, 0, 0), (1, 1, 1), "bilinear")),
    ],
)
def test_the_transform_is_that_of_the_weights(name, expected):
    assert encoder_transform(ImageEncoderConfig(name=name)) == expected
    assert encoder_transform(ImageEncoderConfig(name=name), None, 512).resolution == 512


def test_the_transform_follows_the_weights_named_apart():
    source = WeightsSource(id="timm/ViT-B-16-SigLIP2")

    transform = encoder_transform(ImageEncoderConfig(name="ViT-B-16-SigLIP2", weights=source))

    assert transform == TransformConfig(224, **HALVES, resize="squash")


def test_a_repository_of_open_clips_form_describes_itself(tmp_path):
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": {"width": 16}}
    preprocess = {**HALVES, "interpolation": "bilinear", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    clip_file(tmp_path / "open_clip_model.safetensors", VIT)
    config = ImageEncoderConfig(name="someone/clip", output="pooled")
    weights = tmp_path / "open_clip_model.safetensors"

    encoder = build_image_encoder(config, weights)

    assert (encoder.resolution, encoder.width, encoder.visual.transformer.layers) == (32, 24, 2)
    assert encoder_transform(config, weights) == TransformConfig(
        32, **HALVES, interpolation="bilinear", resize="squash"
    )
    again = build_image_encoder(ImageEncoderConfig(name="someone/clip", architecture=encoder.architecture))
    assert "QuickGELU" in {type(module).__name__ for module in again.modules()}


def test_a_file_of_openai_describes_itself(tmp_path):
    tensors = random_clip(VIT) | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(4)}
    torch.save(tensors, tmp_path / "mine.pt")
    config = ImageEncoderConfig(name=str(tmp_path / "mine.pt"), output="pooled")

    encoder = build_image_encoder(config, tmp_path / "mine.pt")

    assert (encoder.resolution, encoder.width, encoder.visual.transformer.layers) == (32, 24, 2)
    assert "QuickGELU" in {type(module).__name__ for module in encoder.modules()}
    assert encoder_transform(config, tmp_path / "mine.pt") == TransformConfig(32)


def test_a_file_that_does_not_tell_its_architecture_asks_for_a_name(tmp_path):
    clip_file(tmp_path / "mine.pt", VIT)

    with pytest.raises(
        UsageError, match=r"mine\.pt does not tell its architecture; name a model of OpenAI or open_clip"
    ):
        build_image_encoder(ImageEncoderConfig(name=str(tmp_path / "mine.pt")), tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("ViT-B-32:laion400m_e32", "ViT-B-32-quickgelu:laion400m_e32"),
        ("ViT-L-14-336:openai", "ViT-L/14@336px"),
    ],
)
def test_a_tag_whose_weights_run_another_activation_is_refused_with_the_right_name(name, use):
    with (
        torch.device("meta"),
        pytest.raises(UsageError, match=rf"{name} were trained with QuickGELU .* runs GELU: use '{use}'"),
    ):
        build_image_encoder(ImageEncoderConfig(name=name))


def test_a_description_that_is_not_json_is_named(tmp_path):
    save_file({"visual.proj": torch.zeros(1)}, tmp_path / "clip.safetensors")
    (tmp_path / "open_clip_config.json").write_text("{")

    with pytest.raises(WeightsError, match=r"open_clip_config\.json: not readable JSON: Expecting"):
        known_of(None, tmp_path / "clip.safetensors")


def test_a_resize_that_is_not_offered_is_refused(tmp_path):
    description = {"model_cfg": {"embed_dim": 24, "vision_cfg": VIT}, "preprocess_cfg": {"resize_mode": "longest"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))

    with pytest.raises(
        WeightsError, match=r"trained on images resized by 'longest'; expected one of \['shortest', 'sq"
    ):
        encoder_transform(ImageEncoderConfig(name="someone/clip"), tmp_path / "clip.safetensors")
