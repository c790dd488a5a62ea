"""A CLIP ViT whose position embeddings count for more, to be trained on."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from git_caption.model.weights import read_tensors


def write_placed(encoder: str, times: float, out: str) -> None:
    """Write a CLIP ViT with its position embeddings multiplied.

    Args:
        encoder: model.safetensors of the ViT.
        times: what they are multiplied by.
        out: folder.
    """
    tensors = read_tensors(Path(encoder))
    tensors["visual.positional_embedding"] *= times
    save_file(tensors, Path(out) / "model.safetensors")
