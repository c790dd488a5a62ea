"""CLIP's visual towers written out, and random weights for them."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional


def random_clip(vision_cfg, quick_gelu=True, embed_dim=24) -> dict[str, torch.Tensor]:
    """The tensors of a random CLIP with both towers; batch statistics differ from those of a new module."""
    text_cfg = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim, dict(vision_cfg), text_cfg, quick_gelu=quick_gelu)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        if name.endswith(("running_var", "bn3.weight")):
            tensor.uniform_(0.2, 0.6)
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


def clip_file(path: Path, vision_cfg, quick_gelu=True, embed_dim=24, **extra) -> dict[str, torch.Tensor]:
    """Write a random CLIP and give the tensors of its visual tower."""
    tensors = random_clip(vision_cfg, quick_gelu, embed_dim) | extra
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return visual_part(tensors)


def visual_part(tensors) -> dict[str, torch.Tensor]:
    """The visual tower's tensors by its own names."""
    return {name.removeprefix("visual."): tensor for name, tensor in tensors.items() if name.startswith("visual.")}


def attention(rows, weights, biases, heads, query=None):
    """Plain multi-head attention of float[B, L, W] rows; `weights` and `biases` are those of q, k, v."""
    query = rows if query is None else query

    def split(flat):
        return flat.unflatten(2, (heads, -1)).transpose(1, 2)

    q, k, v = (split(x @ w.T + b) for x, w, b in zip((query, rows, rows), weights, biases, strict=True))
    scores = (q @ k.transpose(2, 3)) * q.shape[3] ** -0.5
    return (scores.softmax(3) @ v).transpose(1, 2).flatten(2)


def vit_tokens(t, pixels, patch, layers, heads):
    """CLIP's ViT written out, up to and with the last LayerNorm: float[B, 1 + cells, W]."""
    width = t["class_embedding"].shape[0]

    def norm(x, name):
        return functional.layer_norm(x, (width,), t[f"{name}.weight"], t[f"{name}.bias"])

    patches = functional.conv2d(pixels, t["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([t["class_embedding"].expand(len(pixels), 1, width), patches], 1) + t["positional_embedding"]
    x = norm(x, "ln_pre")
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        mixed = attention(
            norm(x, f"{block}.ln_1"),
            t[f"{block}.attn.in_proj_weight"].chunk(3),
            t[f"{block}.attn.in_proj_bias"].chunk(3),
            heads,
        )
        x = x + mixed @ t[f"{block}.attn.out_proj.weight"].T + t[f"{block}.attn.out_proj.bias"]
        hidden = norm(x, f"{block}.ln_2") @ t[f"{block}.mlp.c_fc.weight"].T + t[f"{block}.mlp.c_fc.bias"]
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + hidden @ t[f"{block}.mlp.c_proj.weight"].T + t[f"{block}.mlp.c_proj.bias"]
    return norm(x, "ln_post")


def resnet_cells(t, pixels, layers):
    """CLIP's ResNet written out, before attention pooling: float[B, 32 width, H, W]."""

    def norm(x, name):
        mean, variance, weight, bias = (
            t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = weight / (variance + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]

    x = norm(functional.conv2d(pixels, t["conv1.weight"], stride=2, padding=1), "bn1").relu()
    x = norm(functional.conv2d(x, t["conv2.weight"], padding=1), "bn2").relu()
    x = functional.avg_pool2d(norm(functional.conv2d(x, t["conv3.weight"], padding=1), "bn3").relu(), 2)
    for stage, count in enumerate(layers, start=1):
        for number in range(count):
            block, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = norm(functional.conv2d(x, t[f"{block}.conv1.weight"]), f"{block}.bn1").relu()
            y = norm(functional.conv2d(y, t[f"{block}.conv2.weight"], padding=1), f"{block}.bn2").relu()
            y = functional.avg_pool2d(y, stride)
            y = norm(functional.conv2d(y, t[f"{block}.conv3.weight"]), f"{block}.bn3")
            if f"{block}.downsample.0.weight" in t:
                x = functional.conv2d(functional.avg_pool2d(x, stride), t[f"{block}.downsample.0.weight"])
                x = norm(x, f"{block}.downsample.1")
            x = (x + y).relu()
    return x


def attention_pooled(t, cells, heads):
    rows = cells.flatten(2).transpose(1, 2)
    rows = torch.cat([rows.mean(1, keepdim=True), rows], 1) + t["attnpool.positional_embedding"]
    weights = [t[f"attnpool.{name}_proj.weight"] for name in "qkv"]
    biases = [t[f"attnpool.{name}_proj.bias"] for name in "qkv"]
    pooled = attention(rows, weights, biases, heads, query=rows[:, :1])
    return pooled @ t["attnpool.c_proj.weight"].T + t["attnpool.c_proj.bias"]
