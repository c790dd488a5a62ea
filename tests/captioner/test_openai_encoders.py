"""The nine image encoders of OpenAI, from weights in each form that they come in.

The towers have each name's own patches and layers and are narrow, for the real ones take gigabytes; the real widths
and heads are checked without weights.
"""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from git_caption.captioner.hub import resolve_encoder
from git_caption.errors import WeightsError
from git_caption.model.openai_tower import described, name_of
from git_caption.model.vision import build_image_encoder
from git_caption.params.model import ImageEncoderConfig
from tests import hub_cache
from tests.written_clip import attention_pooled, random_clip, resnet_cells, visual_part, vit_tokens

ATOL = 1e-5  # of values of size 1; worst seen 2.0e-6, fp32

# name -> where its weights are, patch, layers, width, heads, resolution, rows of the grid, width of the pooled row
PUBLISHED = {
    "RN50": ("timm/resnet50_clip.openai", None, (3, 4, 6, 3), 64, 32, 224, (49, 2048), 1024),
    "RN101": ("timm/resnet101_clip.openai", None, (3, 4, 23, 3), 64, 32, 224, (49, 2048), 512),
    "RN50x4": ("timm/resnet50x4_clip.openai", None, (4, 6, 10, 6), 80, 40, 288, (81, 2560), 640),
    "RN50x16": ("timm/resnet50x16_clip.openai", None, (6, 8, 18, 8), 96, 48, 384, (144, 3072), 768),
    "RN50x64": ("timm/resnet50x64_clip.openai", None, (3, 15, 36, 10), 128, 64, 448, (196, 4096), 1024),
    "ViT-B/32": ("timm/vit_base_patch32_clip_224.openai", 32, 12, 768, 12, 224, (50, 768), 512),
    "ViT-B/16": ("timm/vit_base_patch16_clip_224.openai", 16, 12, 768, 12, 224, (197, 768), 512),
    "ViT-L/14": ("timm/vit_large_patch14_clip_224.openai", 14, 24, 1024, 16, 224, (257, 1024), 768),
    "ViT-L/14@336px": ("timm/vit_large_patch14_clip_336.openai", 14, 24, 1024, 16, 336, (577, 1024), 768),
}


class Node(nn.Module):
    """A module of a traced CLIP: parameters, buffers and children under OpenAI's names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def scripted(tensors: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    root = Node()
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        node = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, Node())
            node = node.get_submodule(parent)
        if tensor.is_floating_point() and "running" not in last:
            node.register_parameter(last, nn.Parameter(tensor))
        else:
            node.register_buffer(last, tensor)
    return torch.jit.script(root)


FORMS = ("state dict", "TorchScript", "hub cache")
LARGE = ("RN50x16", "RN50x64")  # seconds for each form


@pytest.fixture
def narrow(monkeypatch):
    """Makes open_clip build the tower of a name narrow and for small images; gives its vision_cfg."""
    real = open_clip.get_model_config

    def make(name: str) -> dict:
        _, patch, layers, *_ = PUBLISHED[name]
        sizes = {"image_size": 3 * patch, "width": 128} if patch else {"image_size": 64, "width": 8, "head_width": 64}

        def config(model: str) -> dict:
            known = copy.deepcopy(real(model))
            known["vision_cfg"].update(sizes)
            return {**known, "embed_dim": 24}

        monkeypatch.setattr(open_clip, "get_model_config", config)
        return {**sizes, "layers": layers, **({"patch_size": patch} if patch else {})}

    return make


def expected(name: str, tensors: dict[str, torch.Tensor], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid float[B, N, D_v] and pooled float[B, D_v] of the network written out."""
    _, patch, layers, *_ = PUBLISHED[name]
    tensors = {key: tensor.float() for key, tensor in tensors.items()}
    if patch:
        tokens = vit_tokens(tensors, pixels, patch, layers, heads=2)
        return tokens, tokens[:, 0] @ tensors["proj"]
    cells = resnet_cells(tensors, pixels, layers)
    return cells.flatten(2).transpose(1, 2), attention_pooled(tensors, cells, heads=4)[:, 0]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=pytest.mark.slow if name in LARGE and form != FORMS[0] else ())
        for name in PUBLISHED
        for form in FORMS
    ],
)
def test_grid_and_pooled_equal_the_network_written_out(name, form, narrow, hub_home, tmp_path):
    vision_cfg = narrow(name)
    tensors = random_clip(vision_cfg)
    if form != "hub cache":  # OpenAI's files have matrices in half precision, and their sizes as tensors
        tensors = {key: tensor.half() if tensor.dim() > 1 else tensor for key, tensor in tensors.items()}
        sizes = {"input_resolution": vision_cfg["image_size"], "context_length": 4, "vocab_size": 8}
        tensors |= {key: torch.tensor(size) for key, size in sizes.items()}
    source = tmp_path / "source"
    source.mkdir()
    if form == "state dict":
        torch.save(tensors, source / "clip.pt")
        weights = resolve_encoder(str(source / "clip.pt"))
    elif form == "TorchScript":
        scripted(tensors).save(str(source / "clip.pt"))
        weights = resolve_encoder(str(source / "clip.pt"))
    else:
        save_file(tensors, source / "open_clip_model.safetensors")
        folder = hub_cache.snapshot(hub_home, PUBLISHED[name][0], source)
        weights = resolve_encoder(name)
        assert weights == folder / "open_clip_model.safetensors"
    pixels = torch.randn(2, 3, vision_cfg["image_size"], vision_cfg["image_size"])

    grid = build_image_encoder(ImageEncoderConfig(name=name), weights).eval()
    pooled = build_image_encoder(ImageEncoderConfig(name=name, output="pooled"), weights).eval()

    rows, embedding = expected(name, visual_part(tensors), pixels)
    with torch.no_grad():
        for values, wanted in ((grid(pixels).values, rows), (pooled(pixels).values[:, 0], embedding)):
            scale = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(values, wanted, atol=ATOL * scale, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_published(name):
    _, patch, layers, width, heads, resolution, grid_shape, embed_dim = PUBLISHED[name]

    with torch.device("meta"):  # sizes without weights
        grid = build_image_encoder(ImageEncoderConfig(name=name))
        pooled = build_image_encoder(ImageEncoderConfig(name=name, output="pooled"))

    assert (grid.tokens, grid.width) == grid_shape
    assert (pooled.tokens, pooled.width) == (1, embed_dim)
    assert grid.resolution == pooled.resolution == resolution
    tower = described(pooled.visual.state_dict(), name)
    assert (tower.patch, tower.layers, tower.width) == (patch, layers, width)
    attention = pooled.visual.transformer.resblocks[0].attn if patch else pooled.visual.attnpool
    assert attention.num_heads == heads
    assert name_of(tower) == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_offline_the_error_names_the_repository_and_how_to_fetch_it(name, hub_home):
    with pytest.raises(WeightsError) as caught:
        resolve_encoder(name)

    message = str(caught.value)
    assert message.startswith(f"{name} ({PUBLISHED[name][0]}): open_clip_model.safetensors or open_clip_pytorch_model")
    assert f"'prefetch', 'ids': ['{name}']" in message and "HF_HUB_OFFLINE=1" in message and "\n" not in message
