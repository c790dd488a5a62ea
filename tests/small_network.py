"""Small random captioning networks without an image encoder, whose texts differ from row to row and end."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.model.git import GitNetwork
from git_caption.model.mapping import MlpMapper
from git_caption.model.vision import Features

WIDTH, VOCABULARY, PREFIX = 16, 300, 2
TEXTS = ["a red circle on a blue field", "two small squares, one green", "what is left of the star?", "yes.", "no."]
SETTINGS: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "llama": {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
}


def network(family: str, tokenizer, seed: int = 0, dtype: torch.dtype = torch.float64) -> GitNetwork:
    """A random network whose texts differ from image to image and end at different lengths."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=0, **SETTINGS[family]
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.6 if "embed" in name or "wte" in name or "wpe" in name else 0.3)
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 2.5  # or random texts would hardly ever end
    return GitNetwork(torch.nn.Identity(), MlpMapper(6, WIDTH, PREFIX).to(dtype), model).eval()


def some_features(count: int, seed: int = 1) -> Features:
    values = 3 * torch.randn(count, 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Features(values, torch.ones(count, 1, dtype=torch.bool))
