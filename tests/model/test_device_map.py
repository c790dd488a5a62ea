"""Splits of a language model are planned without its weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.errors import UsageError
from git_caption.model.device_map import DeviceMap, on_meta, split_modules
from git_caption.params.device_split import old_split, read_split
from tests import hub_cache

OPT_1_3B = {"num_hidden_layers": 24, "hidden_size": 2048, "word_embed_proj_dim": 2048, "num_attention_heads": 32}
OPT_350M = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "word_embed_proj_dim": 512,
    "do_layer_norm_before": False,
}
PLACES = {"gpt2": "transformer.h.", "opt": "model.decoder.layers.", "llama": "model.layers."}


def meta(family: str, **sizes):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("opt", OPT_1_3B), ("opt", OPT_350M), ("gpt2", {"n_layer": 24}), ("llama", {"num_hidden_layers": 24})],
)
def test_blocks_go_where_the_numbers_say_and_every_tensor_has_one_device(family, sizes):
    model = meta(family, **sizes)
    modules = split_modules(model, old_split("123", "411"))
    blocks = [modules[f"{PLACES[family]}{number}"] for number in range(24)]
    assert blocks == ["1"] * 4 + ["2"] * 7 + ["3"] * 13
    for name, _ in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        assert len([module for module in modules if name == module or name.startswith(f"{module}.")]) == 1, name
    others = {name: device for name, device in modules.items() if not name.startswith(PLACES[family])}
    assert {name.rpartition(".")[2] for name, device in others.items() if device == "3"} <= {
        *("final_layer_norm", "project_out", "ln_f", "norm")
    }
    assert others["lm_head"] == "1"  # one tensor with the embeddings


def test_a_split_that_this_machine_has_no_devices_for_is_told(tmp_path):
    folder = hub_cache.language_model(tmp_path, "opt")
    with pytest.raises(UsageError, match=r"there is no GPU 97, torch sees \d+; 'device_map': there is no GPU 98"):
        DeviceMap(read_split("97:1,98")).options(folder)
    model = on_meta(folder)
    assert model is not None and all(tensor.is_meta for tensor in model.parameters())
