"""Where LoRA goes in each family of language models, and what it computes there."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from git_caption.errors import UsageError, WeightsError
from git_caption.model.adapters import (
    adapter_tensors,
    add_adapter,
    load_adapter,
    merge_adapter,
    targets,
    without_adapter,
)
from git_caption.params.model import AdapterConfig

pytest.importorskip("peft")

LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
OPT = {"hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2}
NEO = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
GATED = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
SPREAD = ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
# model type -> its sizes, where its blocks are, and the names of the layers in one
FAMILIES = {
    "gpt2": (GPT2, "transformer.h", ["attn.c_attn", "attn.c_proj"], ["mlp.c_fc", "mlp.c_proj"]),
    "opt": (OPT, "model.decoder.layers", [*PROJECTIONS[:3], "self_attn.out_proj"], ["fc1", "fc2"]),
    "llama": (LLAMA, "model.layers", PROJECTIONS, GATED),
    "qwen3": ({**LLAMA, "head_dim": 8}, "model.layers", PROJECTIONS, GATED),
    "mistral": (LLAMA, "model.layers", PROJECTIONS, GATED),
    "gemma2": ({**LLAMA, "head_dim": 8}, "model.layers", PROJECTIONS, GATED),
    "gpt_neox": (LLAMA, "gpt_neox.layers", ["attention.query_key_value", "attention.dense"], SPREAD),
    "gpt_neo": (
        NEO,
        "transformer.h",
        [f"attn.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")],
        ["mlp.c_fc", "mlp.c_proj"],
    ),
    "falcon": (LLAMA, "transformer.h", ["self_attention.query_key_value", "self_attention.dense"], SPREAD),
}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


def small(model_type: str, sizes: dict):
    config = AutoConfig.for_model(model_type, vocab_size=40, bos_token_id=0, eos_token_id=0, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def trained(model, seed: int = 0) -> None:
    """Give the adapter some weights, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_are_those_of_the_blocks_by_their_full_names(family):
    sizes, blocks, attention, feed_forward = FAMILIES[family]
    model = small(family, sizes)
    expected = {"attention": attention, "feed_forward": feed_forward, "both": attention + feed_forward}

    for wanted, names in expected.items():
        pattern = targets(model, wanted)
        found = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
        assert found == {f"{blocks}.{number}.{name}" for number in (0, 1) for name in names}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_begins_as_nothing_and_merges_into_what_it_has_become(family, dora):
    model = small(family, FAMILIES[family][0])
    names, before = list(model.state_dict()), model(IDS).logits

    add_adapter(model, AdapterConfig(rank=2, dora=dora))
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-6, rtol=0)
    assert list(without_adapter(model.state_dict())) == names
    trained(model)
    beside = model(IDS).logits
    merge_adapter(model)

    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(IDS).logits, beside, atol=1e-5, rtol=0)
    assert (beside - before).abs().max() > 1e-3


def test_an_adapter_adds_its_product_scaled_by_alpha_over_rank():
    model = small("llama", LLAMA)
    layer = copy.deepcopy(model.model.layers[1].mlp.up_proj)
    add_adapter(model, AdapterConfig(rank=2, alpha=6))
    trained(model)
    adapter = {name.split("1.mlp.up_proj.")[-1]: value for name, value in adapter_tensors(model).items()}
    given = torch.randn(3, 16)

    product = given @ adapter["lora_A.weight"].T @ adapter["lora_B.weight"].T

    torch.testing.assert_close(model.model.layers[1].mlp.up_proj(given), layer(given) + 6 / 2 * product)


def test_dropout_is_for_training_alone():
    model = small("llama", LLAMA)
    add_adapter(model, AdapterConfig(rank=2, dropout=0.5))
    trained(model)

    assert torch.equal(model(IDS).logits, model(IDS).logits)
    model.train()
    assert not torch.equal(model(IDS).logits, model(IDS).logits)


def test_what_does_not_fit_is_listed_together():
    model = small("gpt2", GPT2)
    add_adapter(model, AdapterConfig(rank=2))
    tensors = adapter_tensors(model)
    first, second, *_ = tensors
    given = {**tensors, second: torch.zeros(3, 3), "base_model.model.lm_head.lora_A.weight": torch.zeros(1)}
    del given[first]

    with pytest.raises(WeightsError) as caught:
        load_adapter(model, given, "adapter")

    message = str(caught.value)
    assert f"1 missing ({first})" in message and f"1 misshapen ({second} is (3, 3)" in message
    assert "1 unexpected (base_model.model.lm_head.lora_A.weight)" in message


def test_a_model_without_such_layers_says_so():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with pytest.raises(UsageError, match="'lora_targets': the blocks of MambaForCausalLM have no linear layers"):
        targets(small("mamba", sizes), "attention")
