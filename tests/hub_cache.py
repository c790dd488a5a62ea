"""A hub cache with tiny random weights under real names, laid out as the hub's own client lays it out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.text.tokenizer import train_bpe

REVISION = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["a red circle on a blue field", "two small squares, one green", "what is left of the star?", "yes.", "no."]
WIDTH, POSITIONS = 16, 128
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
    "opt": {
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
    },
    "llama": {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
    },
}


def language_model(folder: Path, family: str = "gpt2", seed: int = 0, **sizes: Any) -> Path:
    """A random language model with a tokenizer, in `folder` as `save_pretrained` writes them; `sizes` over `SIZES`."""
    tokenizer = train_bpe(TEXTS, 300, folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=0, **{**SIZES[family], **sizes}
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large enough that texts differ from image to image
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    return folder


def snapshot(cache: Path, repository: str, source: Path, revision: str = REVISION) -> Path:
    """Lay the files of `source` out as a snapshot of `repository` in `cache` (HF_HOME/hub): blobs, links, refs."""
    stored = cache / ("models--" + repository.replace("/", "--"))
    folder = stored / "snapshots" / revision
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        blob = stored / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = folder / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (stored / "refs").mkdir(exist_ok=True)
    (stored / "refs" / "main").write_text(revision)
    return folder
