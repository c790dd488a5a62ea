from __future__ import annotations

import json

import open_clip
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch.nn import functional

from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_table import OPENAI_NAMES
from git_caption.model.vision import build_image_encoder, native_resolution
from git_caption.params.model import ImageEncoderConfig, WeightsSource
from tests.written_clip import attention_pooled, clip_file, resnet_cells, vit_tokens

VIT = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}
ATOL = 1e-5  # worst seen 2.2e-6, fp32


def custom(vision_cfg, output="grid", quick_gelu=True, embed_dim=24, **others):
    architecture = {"embed_dim": embed_dim, "quick_gelu": quick_gelu, "vision_cfg": dict(vision_cfg)}
    return ImageEncoderConfig(name="custom", architecture=architecture, output=output, **others)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_vit_features_equal_the_network_written_out(tmp_path, suffix):
    tensors = clip_file(tmp_path / f"clip{suffix}", VIT)
    pixels = torch.randn(3, 3, 32, 32)
    tokens = vit_tokens(tensors, pixels, patch=8, layers=2, heads=2)

    grid = build_image_encoder(custom(VIT), tmp_path / f"clip{suffix}").eval()
    patches = build_image_encoder(custom(VIT, keep_class_token=False), tmp_path / f"clip{suffix}").eval()
    pooled = build_image_encoder(custom(VIT, "pooled"), tmp_path / f"clip{suffix}").eval()

    assert (grid.tokens, grid.width, grid.resolution) == (17, 128, 32)
    assert (patches.tokens, pooled.tokens, pooled.width) == (16, 1, 24)
    with torch.no_grad():
        torch.testing.assert_close(grid(pixels).values, tokens, atol=ATOL, rtol=0)
        torch.testing.assert_close(patches(pixels).values, tokens[:, 1:], atol=ATOL, rtol=0)
        torch.testing.assert_close(pooled(pixels).values, tokens[:, :1] @ tensors["proj"], atol=ATOL, rtol=0)
        assert (grid.bfloat16()(pixels).values.float() - tokens).abs().max() > ATOL, "bf16 must not pass"
    assert grid(pixels).mask.shape == (3, 17) and grid(pixels).mask.all()


def test_resnet_features_equal_the_network_written_out(tmp_path):
    tensors = clip_file(tmp_path / "clip.safetensors", RESNET)
    pixels = torch.randn(2, 3, 64, 64)
    cells = resnet_cells(tensors, pixels, RESNET["layers"])

    grid = build_image_encoder(custom(RESNET), tmp_path / "clip.safetensors").eval()
    pooled = build_image_encoder(custom(RESNET, "pooled"), tmp_path / "clip.safetensors").eval()

    assert (grid.tokens, grid.width, pooled.tokens, pooled.width) == (4, 256, 1, 24)
    scale = cells.abs().max().item()
    assert scale > 0.5
    with torch.no_grad():
        values = grid(pixels).values
        torch.testing.assert_close(values, cells.flatten(2).transpose(1, 2), atol=ATOL * scale, rtol=0)
        torch.testing.assert_close(values[:, 1], cells[:, :, 0, 1], atol=ATOL * scale, rtol=0)  # row by row
        expected = attention_pooled(tensors, cells, heads=4)
        torch.testing.assert_close(pooled(pixels).values, expected, atol=ATOL * scale, rtol=0)


@pytest.mark.parametrize("file", ["model_state_dict.pt", "model_jit.pt"])
@pytest.mark.parametrize(("folder", "width"), [("openai_clip_vit_p16", 128), ("openai_clip_vit_w64", 64)])
@pytest.mark.parametrize("output", ["grid", "pooled"])
def test_features_equal_those_of_the_original_tool(shared_data, folder, width, file, output):
    legacy = shared_data / "legacy" / folder
    expected = torch.load(legacy / "expected.pt", weights_only=True)
    config = custom({"image_size": 64, "layers": 2, "width": width, "patch_size": 16}, output, embed_dim=64)

    encoder = build_image_encoder(config, legacy / file).eval()

    with torch.no_grad():
        values = encoder(expected["images"]).values
    wanted = expected[f"kevin_eval_{output}"]
    torch.testing.assert_close(values, wanted if output == "grid" else wanted[:, None], atol=ATOL, rtol=0)


def test_batch_statistics_are_not_touched_by_training(tmp_path):
    clip_file(tmp_path / "clip.safetensors", RESNET)
    encoder = build_image_encoder(custom(RESNET, "pooled"), tmp_path / "clip.safetensors")
    pixels = torch.randn(2, 3, 64, 64)
    wanted = encoder.eval()(pixels).values
    before = encoder.visual.bn1.running_mean.clone()

    encoder.train()

    assert encoder.training
    assert torch.equal(encoder(pixels).values, wanted)
    assert torch.equal(encoder.visual.bn1.running_mean, before)


@pytest.mark.parametrize("vision_cfg", [VIT, RESNET])
@pytest.mark.parametrize("output", ["grid", "pooled"])
def test_every_parameter_gets_a_gradient(vision_cfg, output):
    encoder = build_image_encoder(custom(vision_cfg, output))

    encoder(torch.randn(2, 3, encoder.resolution, encoder.resolution)).values.square().sum().backward()

    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_pixels_of_another_resolution_are_refused():
    encoder = build_image_encoder(custom(VIT))

    with pytest.raises(UsageError, match=r"\[B, 3, 32, 32\].*\[1, 3, 40, 40\].*input_resolution"):
        encoder(torch.zeros(1, 3, 40, 40))


def test_pixels_are_cast_to_the_encoders_precision():
    encoder = build_image_encoder(custom(VIT)).to(torch.bfloat16)

    assert encoder(torch.zeros(1, 3, 32, 32)).values.dtype == torch.bfloat16


def test_every_openai_name_is_a_quick_gelu_model_of_open_clip():
    for name, architecture in OPENAI_NAMES.items():
        config = open_clip.get_model_config(architecture)
        assert config["quick_gelu"] is True, name
        assert native_resolution(ImageEncoderConfig(name=name)) == config["vision_cfg"]["image_size"]
    assert native_resolution(ImageEncoderConfig(name="ViT-L/14@336px")) == 336
    assert native_resolution(ImageEncoderConfig(name="RN50x64")) == 448


@pytest.mark.parametrize(
    ("name", "output", "tokens", "width"),
    [
        ("ViT-B/32", "grid", 50, 768),
        ("ViT-B/32", "pooled", 1, 512),
        ("RN50", "grid", 49, 2048),
        ("RN50", "pooled", 1, 1024),
    ],
)
def test_names_of_openai_give_their_published_sizes(name, output, tokens, width):
    encoder = build_image_encoder(ImageEncoderConfig(name=name, output=output))

    assert (encoder.tokens, encoder.width, encoder.resolution) == (tokens, width, 224)
    activations = {type(module).__name__ for module in encoder.modules()}
    assert "GELU" not in activations
    assert ("QuickGELU" in activations) == name.startswith("ViT")


@pytest.mark.parametrize(
    ("vision_cfg", "output", "tokens", "width"),
    [
        ({"timm_model_name": "convnext_atto", "image_size": 224}, "grid", 49, 320),
        ({"timm_model_name": "convnext_atto", "image_size": 224}, "pooled", 1, 24),
        ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "image_size": 224}, "grid", 197, 192),
        ({**VIT, "attentional_pool": True, "attn_pooler_queries": 4, "output_tokens": True}, "pooled", 1, 24),
    ],
)
def test_other_towers_of_open_clip_are_taken(vision_cfg, output, tokens, width):
    encoder = build_image_encoder(custom(vision_cfg, output, quick_gelu=False))

    assert (encoder.tokens, encoder.width) == (tokens, width)


def test_a_tower_that_pools_by_attention_has_no_grid():
    with pytest.raises(UsageError, match=r"'coca_ViT-B-32' pools by attention.*'output_grid': False"):
        build_image_encoder(ImageEncoderConfig(name="coca_ViT-B-32"))


# --- activations


def test_openai_weights_in_a_model_with_another_activation_are_refused(tmp_path):
    marks = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(4), "vocab_size": torch.tensor(8)}
    clip_file(tmp_path / "clip.pt", VIT, **marks)

    with pytest.raises(
        UsageError, match=r"clip\.pt were trained with QuickGELU.*'custom' runs GELU.*'quick_gelu': True"
    ):
        build_image_encoder(custom(VIT, quick_gelu=False), tmp_path / "clip.pt")
    build_image_encoder(custom(VIT, quick_gelu=True), tmp_path / "clip.pt")


def hub_file(tmp_path, repository):
    folder = tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    return folder / "open_clip_model.safetensors"


@pytest.mark.parametrize(
    ("repository", "quick_gelu"),
    [
        ("timm/vit_base_patch32_clip_224.openai", True),
        ("timm/vit_base_patch32_clip_224.metaclip_400m", True),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", False),
    ],
)
@pytest.mark.parametrize("known_by", ["source", "cache"])
def test_activation_is_known_from_the_repository(tmp_path, repository, quick_gelu, known_by):
    path = hub_file(tmp_path, repository) if known_by == "cache" else tmp_path / "clip.safetensors"
    clip_file(path, VIT)
    source = WeightsSource(id=repository) if known_by == "source" else None

    build_image_encoder(custom(VIT, quick_gelu=quick_gelu, weights=source), path)
    with pytest.raises(UsageError, match="were trained with"):
        build_image_encoder(custom(VIT, quick_gelu=not quick_gelu, weights=source), path)


@pytest.mark.parametrize("source", ["ViT-B/32", "ViT-B-32:openai", "timm/vit_base_patch32_clip_224.openai"])
def test_the_plain_name_of_open_clip_is_refused_for_openai_weights(tmp_path, source):
    clip_file(tmp_path / "clip.safetensors", VIT)
    config = ImageEncoderConfig(name="ViT-B-32", weights=WeightsSource(id=source))

    with pytest.raises(UsageError, match=r"'ViT-B-32' runs GELU: use 'ViT-B/32'"):
        build_image_encoder(config, tmp_path / "clip.safetensors")


def test_the_quick_gelu_name_is_refused_for_other_weights(tmp_path):
    clip_file(tmp_path / "clip.safetensors", VIT)
    source = WeightsSource(id="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")

    with pytest.raises(
        UsageError, match=r"trained with GELU and image encoder 'ViT-B/32' runs QuickGELU: use 'ViT-B-32'"
    ):
        build_image_encoder(ImageEncoderConfig(name="ViT-B/32", weights=source), tmp_path / "clip.safetensors")


def test_activation_is_known_from_the_description_beside_a_file(tmp_path):
    clip_file(tmp_path / "clip.safetensors", VIT)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))

    build_image_encoder(custom(VIT, quick_gelu=True), tmp_path / "clip.safetensors")
    with pytest.raises(UsageError, match="trained with QuickGELU"):
        build_image_encoder(custom(VIT, quick_gelu=False), tmp_path / "clip.safetensors")


def test_a_resnet_has_neither_activation_and_takes_any_weights(tmp_path):
    marks = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(4)}
    clip_file(tmp_path / "clip.pt", RESNET, **marks)

    assert build_image_encoder(custom(RESNET, quick_gelu=False), tmp_path / "clip.pt").tokens == 4


def test_a_tower_built_with_another_activation_than_asked_is_refused(monkeypatch):
    monkeypatch.setattr("open_clip.model.QuickGELU", torch.nn.GELU)

    with pytest.raises(WeightsError, match=r"quick_gelu True and this version of open_clip built it with GELU"):
        build_image_encoder(custom(VIT))


# --- resolutions


@pytest.mark.parametrize(("resolution", "tokens"), [(48, 37), (16, 5)])
def test_positions_are_interpolated_to_another_resolution(tmp_path, resolution, tokens):
    tensors = clip_file(tmp_path / "clip.safetensors", VIT)

    encoder = build_image_encoder(custom(VIT), tmp_path / "clip.safetensors", resolution)

    reference = {"visual.positional_embedding": tensors["positional_embedding"]}
    like = torch.nn.Module()
    like.visual = torch.nn.Module()
    like.visual.grid_size = (resolution // 8, resolution // 8)
    resize_pos_embed(reference, like)
    assert torch.equal(encoder.visual.positional_embedding, reference["visual.positional_embedding"])
    assert encoder(torch.zeros(1, 3, resolution, resolution)).values.shape == (1, tokens, 128)


def shaped(table, old, rows, columns):
    """Positions for another shape as GenerativeImage2Text interpolates them: bicubic, without antialiasing."""
    grid = table[1:].reshape(old, old, -1).permute(2, 0, 1)[None]
    grid = functional.interpolate(grid, size=(rows, columns), mode="bicubic")
    return torch.cat([table[:1], grid[0].permute(1, 2, 0).reshape(rows * columns, -1)])


@pytest.mark.parametrize(("height", "width"), [(24, 40), (48, 16), (48, 48), (16, 64)])
def test_a_vit_sees_other_shapes_with_its_positions_interpolated(tmp_path, height, width):
    tensors = clip_file(tmp_path / "clip.safetensors", VIT)
    own = tensors["positional_embedding"]
    pixels = torch.randn(2, 3, height, width)
    tensors["positional_embedding"] = shaped(own, 4, height // 8, width // 8)
    tokens = vit_tokens(tensors, pixels, patch=8, layers=2, heads=2)
    grid = build_image_encoder(custom(VIT), tmp_path / "clip.safetensors").eval()
    pooled = build_image_encoder(custom(VIT, "pooled"), tmp_path / "clip.safetensors").eval()
    for encoder in (grid, pooled):
        encoder.take(32, any_shape=True)
    with torch.no_grad():
        features = grid(pixels)
        torch.testing.assert_close(features.values, tokens, atol=ATOL, rtol=0)
        torch.testing.assert_close(pooled(pixels).values, tokens[:, :1] @ tensors["proj"], atol=ATOL, rtol=0)
    assert features.mask.shape == (2, 1 + height * width // 64)
    assert torch.equal(grid.visual.positional_embedding, own)  # its own table stays


def test_a_resnet_sees_other_shapes(tmp_path):
    tensors = clip_file(tmp_path / "clip.safetensors", RESNET)
    pixels = torch.randn(2, 3, 64, 96)
    cells = resnet_cells(tensors, pixels, RESNET["layers"])
    tensors["attnpool.positional_embedding"] = shaped(tensors["attnpool.positional_embedding"], 2, 2, 3)
    expected = attention_pooled(tensors, cells, heads=4)
    grid = build_image_encoder(custom(RESNET), tmp_path / "clip.safetensors").eval()
    pooled = build_image_encoder(custom(RESNET, "pooled"), tmp_path / "clip.safetensors").eval()
    scale = cells.abs().max().item()
    for encoder in (grid, pooled):
        encoder.take(64, any_shape=True)
    with torch.no_grad():
        torch.testing.assert_close(grid(pixels).values, cells.flatten(2).transpose(1, 2), atol=ATOL * scale, rtol=0)
        torch.testing.assert_close(pooled(pixels).values, expected, atol=ATOL * scale, rtol=0)


@pytest.mark.parametrize("vision_cfg", [VIT, RESNET])
@pytest.mark.parametrize("output", ["grid", "pooled"])
def test_an_encoder_told_of_another_resolution_equals_one_built_for_it(tmp_path, vision_cfg, output):
    clip_file(tmp_path / "clip.safetensors", vision_cfg)
    built = build_image_encoder(custom(vision_cfg, output), tmp_path / "clip.safetensors", resolution=96).eval()
    told = build_image_encoder(custom(vision_cfg, output), tmp_path / "clip.safetensors").eval()
    told.take(96, any_shape=False)
    pixels = torch.randn(1, 3, 96, 96)
    assert (told.resolution, told.tokens, told.width) == (96, built.tokens, built.width)
    assert torch.equal(told(pixels).values, built(pixels).values)
    assert told.state_dict().keys() == built.state_dict().keys()


def test_sides_of_other_shapes_are_whole_cells():
    encoder = build_image_encoder(custom(VIT))
    encoder.take(32, any_shape=True)
    for height, width in ((32, 41), (4, 64), (0, 32)):
        seen = rf"\[B, 3, 32, 32\], or of another shape in multiples of 8, and was given \[1, 3, {height}, {width}\]"
        with pytest.raises(UsageError, match=seen):
            encoder(torch.zeros(1, 3, height, width))


def test_other_shapes_and_sizes_are_refused_where_positions_are_fixed():
    vision_cfg = {"timm_model_name": "resnet18", "timm_pool": "abs_attn", "timm_proj": "", "image_size": 224}
    encoder = build_image_encoder(custom(vision_cfg, "pooled", quick_gelu=False))
    encoder.take(224, any_shape=False)
    with pytest.raises(UsageError, match=r"takes squares of 224 pixels only: leave out 'test_respect_ratio_max'"):
        encoder.take(224, any_shape=True)
    with pytest.raises(UsageError, match="the image encoder takes images of 224 pixels only, not of 256"):
        encoder.take(256, any_shape=False)


def test_a_timm_tower_takes_squares_of_another_size():
    encoder = build_image_encoder(custom(TIMM_VIT, quick_gelu=False))
    encoder.take(64, any_shape=False)
    assert encoder(torch.zeros(1, 3, 64, 64)).values.shape == (1, 17, 192)
    with pytest.raises(UsageError, match="takes squares of 64 pixels only"):
        encoder.take(64, any_shape=True)


def test_a_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"test_crop_size 36 is not a multiple of the patch size 8 of the image enc"):
        build_image_encoder(custom(VIT)).take(36, any_shape=False)


@pytest.mark.parametrize(("output", "tokens"), [("grid", 9), ("pooled", 1)])
def test_a_resnet_takes_any_multiple_of_its_cell(tmp_path, output, tokens):
    clip_file(tmp_path / "clip.safetensors", RESNET)

    encoder = build_image_encoder(custom(RESNET, output), tmp_path / "clip.safetensors", resolution=96)

    assert encoder.tokens == tokens
    assert encoder(torch.zeros(1, 3, 96, 96)).values.shape[1] == tokens


@pytest.mark.parametrize(("vision_cfg", "cell"), [(VIT, 8), (RESNET, 32)])
def test_a_resolution_that_patches_do_not_divide_is_refused(vision_cfg, cell):
    with pytest.raises(UsageError, match=rf"input_resolution 100 is not a multiple of the patch size {cell} "):
        build_image_encoder(custom(vision_cfg), resolution=100)


TIMM_VIT = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "image_size": 224}
TIMM_CONVNEXT = {"timm_model_name": "convnext_atto", "image_size": 224}


def test_a_timm_tower_interpolates_its_positions_as_timm_does(tmp_path):
    tensors = clip_file(tmp_path / "clip.safetensors", TIMM_VIT, quick_gelu=False)

    encoder = build_image_encoder(custom(TIMM_VIT, quick_gelu=False), tmp_path / "clip.safetensors", 96).eval()

    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96).eval()
    table = {name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")}
    table["pos_embed"] = resample_abs_pos_embed(table["pos_embed"], (6, 6))
    trunk.load_state_dict(table)
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels).values, trunk.forward_features(pixels), atol=ATOL, rtol=0)


@pytest.mark.parametrize(("vision_cfg", "cell", "tokens"), [(TIMM_VIT, 16, 17), (TIMM_CONVNEXT, 32, 4)])
def test_a_timm_tower_takes_any_multiple_of_its_patch(vision_cfg, cell, tokens):
    assert build_image_encoder(custom(vision_cfg, quick_gelu=False), resolution=64).tokens == tokens
    with pytest.raises(UsageError, match=rf"input_resolution 200 is not a multiple of the patch size {cell} "):
        build_image_encoder(custom(vision_cfg, quick_gelu=False), resolution=200)


def test_a_tower_that_pools_a_grid_of_fixed_size_has_one_resolution():
    vision_cfg = {"timm_model_name": "resnet18", "timm_pool": "abs_attn", "timm_proj": "", "image_size": 224}
    with pytest.raises(UsageError, match=r"'custom' takes images of 224 pixels only, not of 256"):
        build_image_encoder(custom(vision_cfg, "pooled", quick_gelu=False), resolution=256)


def test_positions_of_an_unexpected_grid_are_a_misfit_not_interpolated(tmp_path):
    clip_file(tmp_path / "clip.safetensors", {**VIT, "image_size": 48})

    with pytest.raises(
        WeightsError, match=r"1 misshapen \(positional_embedding is \(37, 128\), expected \(17, 128\)\)"
    ):
        build_image_encoder(custom(VIT), tmp_path / "clip.safetensors")


# --- loading


def test_what_does_not_fit_is_listed_together(tmp_path):
    tensors = clip_file(tmp_path / "clip.safetensors", VIT)
    changed = {f"visual.{name}": tensor for name, tensor in tensors.items()}
    del changed["visual.ln_post.bias"]
    changed["visual.extra"] = torch.zeros(1)
    changed["visual.proj"] = torch.zeros(128, 7)
    save_file(changed, tmp_path / "changed.safetensors")

    with pytest.raises(WeightsError) as caught:
        build_image_encoder(custom(VIT), tmp_path / "changed.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/changed.safetensors does not fit the model: 1 missing (ln_post.bias); 1 unexpected (extra); "
        "1 misshapen (proj is (128, 7), expected (128, 24))"
    )


def test_a_file_that_is_no_clip_is_refused(tmp_path):
    save_file({"wte.weight": torch.zeros(2, 2)}, tmp_path / "gpt.safetensors")

    with pytest.raises(WeightsError, match=r"gpt\.safetensors: holds no image encoder.*'visual\.'"):
        build_image_encoder(custom(VIT), tmp_path / "gpt.safetensors")


def test_half_precision_files_become_fp32(tmp_path):
    tensors = clip_file(tmp_path / "clip.safetensors", VIT)
    save_file({f"visual.{name}": tensor.half() for name, tensor in tensors.items()}, tmp_path / "half.safetensors")

    encoder = build_image_encoder(custom(VIT), tmp_path / "half.safetensors")

    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


# --- names and architectures


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown image encoder 'ViT-B/23'\. Did you mean 'ViT-B/32'\? Known: RN50, "):
        build_image_encoder(ImageEncoderConfig(name="ViT-B/23"))


def test_names_with_a_scheme_do_not_reach_the_network():
    with pytest.raises(UsageError, match="unknown image encoder 'hf-hub:timm/some_model'"):
        build_image_encoder(ImageEncoderConfig(name="hf-hub:timm/some_model"))


def test_faulty_architectures_are_refused():
    with pytest.raises(UsageError, match=r"has the keys \['vision_cfg'\], expected \['embed_dim'"):
        build_image_encoder(ImageEncoderConfig(name="custom", architecture={"vision_cfg": VIT}))
    with pytest.raises(UsageError, match=r"vision_cfg: unknown \['depth'\]"):
        build_image_encoder(custom({**VIT, "depth": 3}))
    with pytest.raises(UsageError, match=r"goes with the name 'custom', not with 'RN50'"):
        build_image_encoder(ImageEncoderConfig(name="RN50", architecture={"embed_dim": 3}))
    with pytest.raises(UsageError, match=r"square images, this one is made for \(32, 64\)"):
        build_image_encoder(custom({**VIT, "image_size": (32, 64)}))
