"""SigLIP's and DINOv3's towers against the models of transformers that wrote the folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from git_caption.errors import UsageError, WeightsError
from git_caption.model.vision import build_image_encoder, encoder_transform
from git_caption.params.model import ImageEncoderConfig, TransformConfig

ATOL = 1e-5  # worst seen 4.8e-7, fp32
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
DINO = {**SIZES, "image_size": 32, "patch_size": 8, "num_register_tokens": 4}
CONVNEXT = {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 2, 1], "image_size": 64}


def siglip():
    return SiglipModel(SiglipConfig(vision_config={**SIZES, "image_size": 32, "patch_size": 8}, text_config=TEXT))


def naflex():
    return Siglip2Model(Siglip2Config(vision_config={**SIZES, "num_patches": 16, "patch_size": 8}, text_config=TEXT))


MODELS = {
    "siglip": (siglip, lambda: SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)),
    "naflex": (naflex, lambda: Siglip2ImageProcessor(patch_size=8, max_num_patches=16)),
    "vit": (
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**DINO)),
        lambda: DINOv3ViTImageProcessor(size={"height": 32, "width": 32}),
    ),
    "convnext": (
        lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig(**CONVNEXT)),
        lambda: DINOv3ViTImageProcessor(size={"height": 64, "width": 64}),
    ),
}


@pytest.fixture
def folder(tmp_path):
    """Writes a random model as `save_pretrained` does; gives the model and its folder."""

    def write(kind: str):
        make, processor = MODELS[kind]
        model = make().eval()
        with torch.no_grad():  # the usual beginnings have zeros that hide what is left out
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        model.save_pretrained(tmp_path / kind)
        processor().save_pretrained(tmp_path / kind)
        return model, tmp_path / kind

    return write


def encoder(folder: Path, output="grid", resolution=None, **others):
    return build_image_encoder(ImageEncoderConfig(name=str(folder), output=output, **others), folder, resolution).eval()


def flat_patches(pixels, patch):
    """NaFlex's own form of images: for each its patches row by row, a patch's values in order height, width, colour."""
    height, width = (side // patch for side in pixels.shape[2:])
    rows = [
        pixels[:, :, patch * y : patch * (y + 1), patch * x : patch * (x + 1)].permute(0, 2, 3, 1).flatten(1)
        for y in range(height)
        for x in range(width)
    ]
    mask = torch.ones(len(pixels), height * width)
    return torch.stack(rows, dim=1), mask, torch.tensor([[height, width]] * len(pixels))


def asked_directly(kind, model, pixels):
    """Grid without a class token, class token (or None) and pooled row, as transformers gives them."""
    with torch.no_grad():
        if kind == "siglip":
            found = model.get_image_features(pixels, interpolate_pos_encoding=True)
            return found.last_hidden_state, None, found.pooler_output
        if kind == "naflex":
            patches, mask, shapes = flat_patches(pixels, 8)
            found = model.get_image_features(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
            return found.last_hidden_state, None, found.pooler_output
        found = model(pixels)
        before = 5 if kind == "vit" else 1  # class token and registers; the mean of the cells
        class_token = found.last_hidden_state[:, :1] if kind == "vit" else None
        return found.last_hidden_state[:, before:], class_token, found.pooler_output


@pytest.mark.parametrize("resolution", [None, 96])
@pytest.mark.parametrize("kind", MODELS)
def test_grid_and_pooled_equal_the_model_asked_directly(kind, resolution, folder):
    model, path = folder(kind)
    side = resolution or (64 if kind == "convnext" else 32)
    pixels = torch.randn(3, 3, side, side)
    rows, class_token, row = asked_directly(kind, model, pixels)

    grid, pooled = encoder(path, "grid", resolution), encoder(path, "pooled", resolution)
    patches = encoder(path, "grid", resolution, keep_class_token=False)

    whole = rows if class_token is None else torch.cat([class_token, rows], dim=1)
    assert (grid.tokens, grid.width, grid.resolution) == (*whole.shape[1:], side)
    assert (pooled.tokens, pooled.width, patches.tokens) == (1, 16, rows.shape[1])
    with torch.no_grad():
        torch.testing.assert_close(grid(pixels).values, whole, atol=ATOL, rtol=0)
        torch.testing.assert_close(patches(pixels).values, rows, atol=ATOL, rtol=0)
        torch.testing.assert_close(pooled(pixels).values[:, 0], row, atol=ATOL, rtol=0)
        assert (grid.bfloat16()(pixels).values.float() - whole).abs().max() > ATOL, "bf16 must not pass"


@pytest.mark.parametrize("kind", MODELS)
def test_images_of_another_shape_and_resolution_are_taken_on_request(kind, folder):
    model, path = folder(kind)
    pixels = torch.randn(2, 3, 64, 160)
    rows, class_token, row = asked_directly(kind, model, pixels)
    grid, pooled = encoder(path, "grid"), encoder(path, "pooled")
    with pytest.raises(UsageError, match=r"takes pixels .* given \[2, 3, 64, 160\]"):
        grid(pixels)

    grid.take(96, any_shape=True)
    pooled.take(96, any_shape=True)

    whole = rows if class_token is None else torch.cat([class_token, rows], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(grid(pixels).values, whole, atol=ATOL, rtol=0)
        torch.testing.assert_close(pooled(pixels).values[:, 0], row, atol=ATOL, rtol=0)
        assert grid.tokens == grid(torch.zeros(1, 3, 96, 96)).values.shape[1]
    with pytest.raises(UsageError, match="test_crop_size 100 is not a multiple of the patch size"):
        grid.take(100, any_shape=False)


@pytest.mark.parametrize("kind", MODELS)
def test_an_image_does_not_depend_on_its_batch(kind, folder):
    _, path = folder(kind)
    grid = encoder(path)
    pixels = torch.randn(3, 3, grid.resolution, grid.resolution)

    with torch.no_grad():
        torch.testing.assert_close(grid(pixels[1:2]).values[0], grid(pixels).values[1], atol=ATOL, rtol=0)


@pytest.mark.parametrize("output", ["grid", "pooled"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_gets_a_gradient(kind, output, folder):
    _, path = folder(kind)
    trained = encoder(path, output).train()

    trained(torch.randn(2, 3, trained.resolution, trained.resolution)).values.square().sum().backward()

    assert [name for name, parameter in trained.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", MODELS)
def test_training_sees_the_features_of_inference(kind, folder):
    _, path = folder(kind)
    grid = encoder(path)
    pixels = torch.randn(1, 3, grid.resolution, grid.resolution)

    with torch.no_grad():
        assert torch.equal(grid.train()(pixels).values, grid.eval()(pixels).values)


@pytest.mark.parametrize("kind", MODELS)
def test_the_architecture_rebuilds_the_tower_without_its_folder(kind, folder):
    _, path = folder(kind)
    first = encoder(path)
    architecture = json.loads(json.dumps(first.architecture))

    again = build_image_encoder(ImageEncoderConfig(name="org/model", architecture=architecture)).eval()
    again.load_state_dict(first.state_dict())

    pixels = torch.randn(1, 3, first.resolution, first.resolution)
    with torch.no_grad():
        assert torch.equal(again(pixels).values, first(pixels).values)


@pytest.mark.parametrize("kind", MODELS)
def test_a_tower_trained_alone_is_read_from_its_file(kind, folder, tmp_path):
    _, path = folder(kind)
    trained = encoder(path, "pooled")
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    config = ImageEncoderConfig(name="custom", architecture=trained.architecture, output="pooled")

    again = build_image_encoder(config, tmp_path / "model.safetensors").eval()

    pixels = torch.randn(1, 3, trained.resolution, trained.resolution)
    with torch.no_grad():
        assert torch.equal(again(pixels).values, trained(pixels).values)
    with pytest.raises(WeightsError, match=r"other\.safetensors: holds no image encoder"):
        save_file({"wte.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
        build_image_encoder(config, tmp_path / "other.safetensors")


def test_a_folder_of_the_visual_tower_alone_will_do(folder, tmp_path):
    model, path = folder("siglip")
    model.vision_model.save_pretrained(tmp_path / "tower")

    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(tmp_path / "tower")(pixels).values, encoder(path)(pixels).values)


# --- resolutions and normalisation


@pytest.mark.parametrize(("kind", "patch", "own"), [("siglip", 8, 32), ("naflex", 8, 32), ("vit", 8, 32)])
def test_a_resolution_that_patches_do_not_divide_is_refused(kind, patch, own, folder):
    _, path = folder(kind)
    wanted = rf"input_resolution 60 is not a multiple of the patch size {patch} .*\(its own resolution is {own}\)"
    with pytest.raises(UsageError, match=wanted):
        encoder(path, resolution=60)


def test_a_convnexts_cells_are_of_32_pixels(folder):
    _, path = folder("convnext")
    with pytest.raises(UsageError, match=r"input_resolution 80 is not a multiple of the patch size 32"):
        encoder(path, resolution=80)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("siglip", TransformConfig(32, **HALVES, interpolation="bilinear", resize="squash")),
        ("naflex", TransformConfig(32, **HALVES, interpolation="bilinear", resize="squash")),
        ("vit", TransformConfig(32, **IMAGENET, interpolation="bilinear", resize="squash")),
        ("convnext", TransformConfig(64, **IMAGENET, interpolation="bilinear", resize="squash")),
    ],
)
def test_the_transform_is_that_of_the_folder(kind, expected, folder):
    _, path = folder(kind)
    config = ImageEncoderConfig(name=str(path))

    assert encoder_transform(config, path) == expected
    assert encoder_transform(config, path, 96).resolution == 96


@pytest.mark.parametrize(
    ("changes", "resolution", "interpolation", "resize"),
    [
        ({"size": 48, "resample": 3}, 48, "bicubic", "squash"),
        ({"size": 48, "do_center_crop": True, "crop_size": 48}, 48, "bilinear", "crop"),
        (
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}},
            40,
            "bilinear",
            "crop",
        ),
        ({"crop_size": {"height": 40, "width": 40}, "do_center_crop": None}, 32, "bilinear", "squash"),
    ],
)
def test_older_spellings_of_the_resize_are_read(changes, resolution, interpolation, resize, folder):
    _, path = folder("vit")
    rewrite(path / "preprocessor_config.json", changes)

    transform = encoder_transform(ImageEncoderConfig(name="x"), path)

    assert (transform.resolution, transform.interpolation, transform.resize) == (resolution, interpolation, resize)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 1}, r"resample 1; expected 2 \(bilinear\) or 3 \(bicubic\)"),
        ({"do_normalize": False}, "do_normalize False; expected images that are resized and normalised"),
        ({"rescale_factor": 1.0}, r"rescale_factor 1\.0; expected 1/255"),
        ({"image_mean": None, "resample": None}, "no image_mean, resample; the image encoder's normalisation"),
        ({"size": {"shortest_edge": 40}}, r"size {'shortest_edge': 40} with crop_size None; expected a square"),
        ({"size": {"height": 32, "width": 64}}, r"size {'height': 32, 'width': 64} with crop_size None"),
    ],
)
def test_a_preprocessing_that_is_not_offered_is_refused(changes, message, folder):
    _, path = folder("vit")
    rewrite(path / "preprocessor_config.json", changes)

    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: {message}"):
        encoder_transform(ImageEncoderConfig(name="x"), path)


def test_a_folder_without_preprocessing_is_refused(folder):
    _, path = folder("vit")
    (path / "preprocessor_config.json").unlink()

    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: not readable JSON: .*No such file"):
        encoder_transform(ImageEncoderConfig(name="x"), path)


def rewrite(path: Path, changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- loading


@pytest.mark.parametrize(
    ("kind", "gone", "other"),
    [
        ("siglip", "vision_model.post_layernorm.bias", "vision_model.post_layernorm.weight"),
        ("naflex", "vision_model.post_layernorm.bias", "vision_model.post_layernorm.weight"),
        ("vit", "norm.bias", "norm.weight"),
        ("convnext", "layer_norm.bias", "layer_norm.weight"),
    ],
)
def test_what_does_not_fit_is_listed_together(kind, gone, other, folder):
    _, path = folder(kind)
    tensors = load_file(path / "model.safetensors")
    del tensors[gone]
    tensors[other] = torch.zeros(7)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(WeightsError) as caught:
        encoder(path)

    message = str(caught.value)
    assert f"1 missing ({gone.removeprefix('vision_model.')})" in message
    assert "1 unexpected (extra)" in message
    assert f"1 misshapen ({other.removeprefix('vision_model.')} is (7,), expected (16,))" in message
    assert message.startswith(f"{path} does not fit the image encoder") and "\n" not in message


def test_text_tensors_in_a_tower_alone_are_unexpected(folder, tmp_path):
    model, _ = folder("siglip")
    model.vision_model.save_pretrained(tmp_path / "tower")
    file = tmp_path / "tower" / "model.safetensors"
    save_file(load_file(file) | {"logit_scale": torch.zeros(1)}, file, metadata={"format": "pt"})

    with pytest.raises(WeightsError, match=r"1 unexpected \(logit_scale\)"):
        encoder(tmp_path / "tower")


def test_a_model_that_is_no_image_encoder_is_refused(folder):
    _, path = folder("vit")
    rewrite(path / "config.json", {"model_type": "bert"})

    with pytest.raises(UsageError, match=r"vit: model_type 'bert' is no image encoder; expected siglip_vision_model, "):
        encoder(path)


def test_an_architecture_with_wrong_values_is_refused():
    config = ImageEncoderConfig(name="custom", architecture={"model_type": "dinov3_vit", "hidden_size": "wide"})

    with pytest.raises(UsageError, match=r"image_encoder\.architecture of 'custom': .*hidden_size"):
        build_image_encoder(config)


def test_a_tower_without_a_pooling_head_gives_a_grid_only(folder):
    _, path = folder("siglip")
    rewrite(
        path / "config.json", {"vision_config": {**SIZES, "image_size": 32, "patch_size": 8, "vision_use_head": False}}
    )

    with pytest.raises(UsageError, match=r"has no pooling head: use 'output_grid': True"):
        encoder(path, "pooled")


def test_a_name_of_open_clip_does_not_take_a_folder_of_transformers(folder):
    _, path = folder("vit")

    with pytest.raises(
        WeightsError, match=r"vit: a model of transformers, and image encoder 'ViT-B/32' is one of open"
    ):
        build_image_encoder(ImageEncoderConfig(name="ViT-B/32"), path)
