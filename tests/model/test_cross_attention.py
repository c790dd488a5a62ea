"""Layers of cross-attention in a language model: nothing at first, and then what the formula says."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from git_caption.errors import UsageError
from git_caption.model.cross_attention import CrossAttentionNetwork, build_cross_attention
from git_caption.model.git import TextBatch
from git_caption.model.language import build_language_model, checkpoint_blocks, position_ids
from git_caption.model.vision import Features, Prefix
from git_caption.params.model import CrossAttentionConfig, LanguageModelConfig

VISION, START = 12, 3
SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 24},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,  # the width of the embeddings is not that of the blocks, as in OPT-350m
        "ffn_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
    },
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
    },
}
FAMILIES = pytest.mark.parametrize("family", SIZES)
PROMPTS = [[5, 6, 7, 8], [], [9], [], [10, 11]]
TARGETS = [[20], [21, 22, 23], [24], [], [25, 26]]
IMAGES = [2, 0, 0, 1, 1]
ATOL = 5e-5  # worst seen 4e-6, fp32


def language_model(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    architecture = {"model_type": family, "vocab_size": 90, "initializer_range": 0.3, "init_std": 0.3, **SIZES[family]}
    return build_language_model(LanguageModelConfig(name="custom", architecture=architecture))


def network(family: str, blocks: tuple[int, ...] = (0, 2), gate: float = 0.8) -> CrossAttentionNetwork:
    model = language_model(family)
    layers = build_cross_attention(CrossAttentionConfig(blocks, 4, START), VISION, model)
    with torch.no_grad():
        for layer in layers.layers.values():
            layer.gate.fill_(gate)
    return CrossAttentionNetwork(nn.Identity(), model, layers, START).eval()


def features() -> Features:
    """Three images of 4, 2 and 3 real rows."""
    values = torch.randn(3, 4, VISION, generator=torch.Generator().manual_seed(2))
    return Features(values, torch.arange(4) < torch.tensor([[4], [2], [3]]))


def real(image: int) -> Tensor:
    return features().values[image, features().mask[image]]


@FAMILIES
def test_new_layers_leave_the_language_model_as_it_is(family):
    net = network(family, gate=0.0)
    inputs = net.language_inputs(features(), PROMPTS[:3])
    positions = position_ids(inputs["attention_mask"])
    looking = net.language_model(**inputs, position_ids=positions).logits

    text = {name: inputs[name] for name in ("inputs_embeds", "attention_mask")}
    assert torch.equal(net.language_model(**text, position_ids=positions).logits, looking)
    ids = torch.tensor([PROMPTS[0]])
    assert torch.equal(
        net.language_model(ids).logits,
        net.language_model(**net.language_inputs(features().select(torch.tensor([0])), [PROMPTS[0]])).logits,
    )

    with torch.no_grad():
        next(iter(net.cross_attention.layers.values())).gate.fill_(0.1)
    assert not torch.equal(net.language_model(**inputs, position_ids=positions).logits, looking)


def by_hand(net: CrossAttentionNetwork, image: Tensor, ids: list[int]) -> Tensor:
    """Logits [S, V] of one text about one image [N, D_v], attention written out head by head."""
    model = copy.deepcopy(net.language_model)
    blocks = {
        "gpt2": lambda m: m.transformer.h,
        "opt": lambda m: m.model.decoder.layers,
        "llama": lambda m: m.model.layers,
    }
    for name, layer in net.cross_attention.layers.items():
        block = blocks[model.config.model_type](model)[int(name)]

        def looking(hidden, *args, layer=layer, forward=block.forward, **options):
            seen = layer.features_norm(image)
            queries, keys, values = layer.query(layer.norm(hidden[0])), layer.key(seen), layer.value(seen)
            heads = []
            for head in range(4):
                own = slice(8 * head, 8 * head + 8)
                weights = (queries[:, own] @ keys[:, own].T / 8**0.5).softmax(-1)
                heads.append(weights @ values[:, own])
            hidden = hidden + layer.gate.tanh() * layer.output(torch.cat(heads, dim=1))
            return forward(hidden, *args, **options)

        block.forward = looking
    return model(torch.tensor([ids])).logits[0]


@FAMILIES
def test_logprobs_of_a_batch_are_those_of_each_text_by_the_formula(family):
    net = network(family)
    with torch.no_grad():
        found = net.token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES))
        assert (found.shape, found.dtype) == ((5, 3), torch.float32)
        for row, (prompt, target, image) in enumerate(zip(PROMPTS, TARGETS, IMAGES, strict=True)):
            context = prompt or [START]
            logits = by_hand(net, real(image), [*context, *target])
            wanted = logits.log_softmax(-1)[len(context) - 1 : -1].gather(
                1, torch.tensor(target, dtype=torch.long)[:, None]
            )
            torch.testing.assert_close(found[row, : len(target)], wanted[:, 0], atol=ATOL, rtol=0)
            assert not found[row, len(target) :].any()


def test_one_image_for_each_text_is_the_same_as_naming_it():
    net, texts = network("llama"), TextBatch(PROMPTS, TARGETS, IMAGES)
    named = net.token_logprobs(features(), texts)
    own = net.token_logprobs(features().select(torch.tensor(IMAGES)), TextBatch(PROMPTS, TARGETS))
    torch.testing.assert_close(own, named, atol=ATOL, rtol=0)


@FAMILIES
def test_checkpointed_blocks_have_the_gradients_of_others(family):
    plain = network(family)
    saving = copy.deepcopy(plain)
    checkpoint_blocks(saving.language_model)
    checkpoint_blocks(saving.cross_attention)
    for net in (plain, saving):
        net.language_model.requires_grad_(False)
        net.token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES)).sum().backward()
    for (name, one), other in zip(
        plain.cross_attention.named_parameters(), saving.cross_attention.parameters(), strict=True
    ):
        assert one.grad is not None and one.grad.any(), name
        torch.testing.assert_close(other.grad, one.grad)


def test_closed_gates_learn_first():
    net = network("gpt2", gate=0.0)
    net.token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES)).sum().backward()
    for name, parameter in net.cross_attention.named_parameters():
        assert parameter.grad.any() == name.endswith(".gate"), name


def test_layers_in_float32_stand_in_a_language_model_of_half_precision():
    net = network("llama")
    wanted = net.token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES))
    net.language_model.bfloat16()
    found = net.token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES))
    torch.testing.assert_close(found, wanted, atol=0.3, rtol=0)  # bfloat16 has three digits; worst seen 0.1
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network("llama").token_logprobs(features(), TextBatch(PROMPTS, TARGETS, IMAGES))
    torch.testing.assert_close(mixed, wanted, atol=0.3, rtol=0)


def test_another_language_model_takes_the_layers_over():
    net = network("gpt2")
    before, inputs = net.language_model, net.language_inputs(features(), [[5], [6], [7]])
    wanted = before(**inputs).logits
    net.replace_language_model(language_model("gpt2"))
    assert torch.equal(net.language_model(**inputs).logits, wanted)
    assert torch.equal(before(**inputs).logits, network("gpt2", gate=0.0).language_model(**inputs).logits)


def test_an_error_of_the_language_model_leaves_nothing_behind():
    net = network("gpt2")
    inputs = net.language_inputs(features(), [[5], [6], [7]])
    with pytest.raises(ValueError):
        net.language_model(**inputs, input_ids=torch.tensor([[5]]))
    text = inputs["inputs_embeds"]
    assert torch.equal(
        net.language_model(inputs_embeds=text).logits,
        network("gpt2", gate=0.0).language_model(inputs_embeds=text).logits,
    )


def test_threads_look_at_their_own_images():
    net = network("gpt2")
    inputs = [net.language_inputs(features().select(torch.tensor([image])), [[5, 6]]) for image in range(2)]
    wanted = [net.language_model(**one).logits for one in inputs]
    both_begun = Barrier(2, timeout=60)

    def begin_together(*_):
        both_begun.wait()

    net.language_model.transformer.drop.register_forward_pre_hook(begin_together)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda one: net.language_model(**one).logits, inputs))
    for own, alone in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, alone, atol=ATOL, rtol=0)


def test_the_layers_are_not_compiled():
    with pytest.raises(UsageError, match="'compile': layers of cross_attention cannot be compiled"):
        network("gpt2").compile_for_training()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CrossAttentionConfig((1, 3), 4, START), r"before blocks 1, 3 .*LMHeadModel 3 blocks are known \(0 to 2\)"),
        (CrossAttentionConfig((0,), 5, START), "5 heads cannot share the language model's width of 32"),
    ],
)
def test_layers_that_do_not_fit_are_refused(config, message):
    with pytest.raises(UsageError, match=message):
        build_cross_attention(config, VISION, network("gpt2").language_model)


def test_prefixes_of_a_mapper_are_no_features():
    prefix = Prefix(torch.zeros(1, 2, 32), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"prefixes were given, .* give it features"):
        network("gpt2").language_inputs(prefix, [[5]])
