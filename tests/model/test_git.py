from __future__ import annotations

import pytest
import torch

from git_caption.errors import UsageError
from git_caption.model.git import GitNetwork, TextBatch
from git_caption.model.language import build_language_model, position_ids
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import Features, build_image_encoder
from git_caption.model.weights import load_exactly, read_tensors
from git_caption.params.model import ImageEncoderConfig, LanguageModelConfig, MapperConfig

VISION = 128
VIT = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": VISION, "patch_size": 16},
}
ARCHITECTURES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 90, "n_positions": 24},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "max_position_embeddings": 24,
    },
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "max_position_embeddings": 24,
    },
}
FAMILIES = pytest.mark.parametrize("family", ARCHITECTURES)
PROMPTS = [[5, 6, 7, 8], [], [9], [10, 11]]
TARGETS = [[20], [21, 22, 23], [], [24, 25]]
ATOL = 5e-5  # worst seen 9e-6 on logits up to 8, fp32


def network(family: str, mapper: str = "linear", output: str = "grid") -> GitNetwork:
    torch.manual_seed(1)
    encoder = build_image_encoder(ImageEncoderConfig(name="custom", architecture=VIT, output=output))
    architecture = {"model_type": family, "initializer_range": 0.3, "init_std": 0.3, **ARCHITECTURES[family]}
    language_model = build_language_model(LanguageModelConfig(name="custom", architecture=architecture))
    width = language_model.get_input_embeddings().embedding_dim
    config = MapperConfig(type=mapper, prefix_length=2, clip_length=2, layers=1, heads=2)
    return GitNetwork(encoder, build_mapper(config, encoder.width, width, output == "pooled"), language_model).eval()


def ragged_features() -> Features:
    """Four images of 5, 3, 1 and 4 real rows."""
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4]])
    return Features(torch.randn(4, 5, VISION), mask)


def alone(features: Features, row: int) -> Features:
    """One row's features without its padding."""
    return Features(
        features.values[row : row + 1, features.mask[row]], features.mask[row : row + 1, features.mask[row]]
    )


@FAMILIES
def test_a_left_padded_batch_gives_the_logits_of_its_rows(family):
    net, features = network(family), ragged_features()

    inputs = net.language_inputs(features, PROMPTS)
    logits = net.language_model(**inputs, position_ids=position_ids(inputs["attention_mask"])).logits

    assert inputs["attention_mask"].sum(1).tolist() == [9, 3, 2, 6]
    for row, prompt in enumerate(PROMPTS):
        single = net.language_inputs(alone(features, row), [prompt])
        assert single["attention_mask"].all()
        length = single["attention_mask"].shape[1]
        torch.testing.assert_close(inputs["inputs_embeds"][row, -length:], single["inputs_embeds"][0])
        wanted = net.language_model(inputs_embeds=single["inputs_embeds"]).logits[0]
        torch.testing.assert_close(logits[row, -length:], wanted, atol=ATOL, rtol=0)


@FAMILIES
def test_a_left_padded_batch_generates_the_texts_of_its_rows(family):
    net, features = network(family), ragged_features()
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 3, "eos_token_id": 3, "pad_token_id": 0}

    together = net.language_model.generate(**net.language_inputs(features, PROMPTS), **options)

    for row, prompt in enumerate(PROMPTS):
        single = net.language_model.generate(**net.language_inputs(alone(features, row), [prompt]), **options)
        length = single.shape[1]
        assert together[row, :length].tolist() == single[0].tolist()
        assert not together[row, length:].any()


def test_gpt2_needs_the_positions_of_real_tokens():
    net, features = network("gpt2"), ragged_features()
    inputs = net.language_inputs(features, PROMPTS)

    by_edge = net.language_model(**inputs).logits
    by_mask = net.language_model(**inputs, position_ids=position_ids(inputs["attention_mask"])).logits

    assert (by_edge[1, -1] - by_mask[1, -1]).abs().max() > 100 * ATOL


def test_a_context_is_prefix_then_prompt_with_padding_in_front():
    net, features = network("gpt2"), ragged_features()

    inputs = net.language_inputs(features, PROMPTS)

    prefix, mask = net.prefix(features)
    tokens = net.language_model.get_input_embeddings().weight
    assert torch.equal(mask, features.mask)
    assert inputs["attention_mask"].dtype == torch.long
    assert inputs["attention_mask"][3].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert torch.equal(inputs["inputs_embeds"][3], torch.cat([torch.zeros(3, 32), prefix[3, :4], tokens[[10, 11]]]))


def test_a_prefix_goes_where_the_language_model_is():
    net, features = network("gpt2"), ragged_features()
    net.language_model.to("meta", torch.bfloat16)

    values, mask = net.prefix(features)

    assert (values.device.type, values.dtype, mask.device.type) == ("meta", torch.bfloat16, "meta")


@FAMILIES
def test_logprobs_equal_those_of_each_text_by_itself(family):
    net, features = network(family), ragged_features()

    found = net.token_logprobs(features, TextBatch(PROMPTS, TARGETS))

    assert (found.shape, found.dtype) == ((4, 3), torch.float32)
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        one = alone(features, row)
        prefix = net.prefix(one)[0]
        tokens = net.language_model.get_input_embeddings()(torch.tensor([prompt + target], dtype=torch.long))
        logits = net.language_model(inputs_embeds=torch.cat([prefix, tokens], 1)).logits[0]
        start = prefix.shape[1] + len(prompt) - 1
        wanted = [logits[start + step].log_softmax(0)[token].item() for step, token in enumerate(target)]
        assert found[row].tolist() == pytest.approx(wanted + [0.0] * (3 - len(target)), abs=ATOL)


@pytest.mark.parametrize(
    ("mapper", "output", "rows"), [("mlp", "pooled", 2), ("transformer", "grid", 2), ("linearLn", "grid", 5)]
)
def test_images_become_a_prefix_of_as_many_rows_as_the_mapper_says(mapper, output, rows):
    net = network("gpt2", mapper, output)

    features = net.encode(torch.randn(2, 3, 32, 32))

    prefix, mask = net.prefix(features)
    assert prefix.shape == (2, rows, 32) and mask.shape == (2, rows) and mask.all()
    found = net.token_logprobs(features, TextBatch([[5], [6, 7]], [[8, 9], [10]]))
    assert found[1, 1] == 0 and (found[:, 0] < 0).all()


def test_the_image_and_the_prompt_change_the_probabilities():
    net = network("gpt2", "mlp", "pooled")
    features = net.encode(torch.randn(2, 3, 32, 32)).select(torch.tensor([0, 1, 0]))

    found = net.token_logprobs(features, TextBatch([[5], [5], [6]], [[8], [8], [8]]))

    assert len({round(value, 4) for value in found[:, 0].tolist()}) == 3


@FAMILIES
def test_gradients_are_finite_and_reach_every_part(family):
    net = network(family, "linear", "grid").train()

    features = net.encode(torch.randn(2, 3, 32, 32))
    loss = -net.token_logprobs(features, TextBatch([[5, 6, 7], []], [[8], [9, 10]])).sum()
    loss.backward()

    for part in (net.image_encoder, net.mapper, net.language_model):
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


def test_a_masked_transformer_prefix_is_whole():
    net = network("gpt2", "transformer", "grid")

    values, mask = net.prefix(ragged_features())

    assert values.shape == (4, 2, 32) and mask.all()


def test_features_are_cast_once_at_each_border():
    net = network("gpt2")
    net.image_encoder.to(torch.bfloat16)
    net.language_model.to(torch.float16)
    features = net.encode(torch.randn(1, 3, 32, 32))

    values, _ = net.prefix(features)
    found = net.token_logprobs(features, TextBatch([[5]], [[6]]))

    assert features.values.dtype == torch.bfloat16
    assert next(net.mapper.parameters()).dtype == torch.float32
    assert (values.dtype, found.dtype) == (torch.float16, torch.float32)
    assert net.language_inputs(features, [[5]])["inputs_embeds"].dtype == torch.float16


def test_no_targets_at_all_have_no_probabilities():
    found = network("gpt2").token_logprobs(ragged_features(), TextBatch(PROMPTS, [[], [], [], []]))

    assert found.shape == (4, 0)


def test_batches_that_do_not_match_are_refused():
    net = network("gpt2")

    with pytest.raises(UsageError, match="2 prompts for the features of 4 images"):
        net.language_inputs(ragged_features(), [[1], [2]])
    with pytest.raises(UsageError, match="1 targets for 4 prompts"):
        net.token_logprobs(ragged_features(), TextBatch(PROMPTS, [[1]]))
    nothing = Features(torch.randn(1, 1, VISION), torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(UsageError, match="nothing to continue: a row has neither features nor a prompt"):
        net.language_inputs(nothing, [[]])


@FAMILIES
def test_rows_that_fit_one_by_one_fit_together(family):
    net, features = network(family), ragged_features().select(torch.tensor([0, 2]))
    prompts, targets = [[7] * 17, [8]], [[5, 6], [9] * 20]  # 24 and 22 positions of 24, 42 side by side

    found = net.token_logprobs(features, TextBatch(prompts, targets))

    for row in range(2):
        wanted = net.token_logprobs(alone(features, row), TextBatch([prompts[row]], [targets[row]]))[0]
        torch.testing.assert_close(found[row, : len(wanted)], wanted, atol=ATOL, rtol=0)


def test_what_stands_in_masked_rows_does_not_matter():
    net, features = network("gpt2"), ragged_features()
    spoilt = Features(features.values.masked_fill(~features.mask[..., None], torch.nan), features.mask)
    batch = TextBatch(PROMPTS, TARGETS)

    assert torch.equal(net.token_logprobs(spoilt, batch), net.token_logprobs(features, batch))


def test_texts_beyond_the_models_positions_are_refused():
    net = network("gpt2")

    with pytest.raises(UsageError, match="take 9 positions and 16 tokens follow, the language model has 24"):
        net.token_logprobs(ragged_features(), TextBatch(PROMPTS, [[1] * 16, [1], [1], [1]]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_adapter_around_the_language_model_is_transparent():
    peft = pytest.importorskip("peft")
    net, features = network("gpt2"), ragged_features()
    batch = TextBatch(PROMPTS, TARGETS)
    before = net.token_logprobs(features, batch)

    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    wrapped = GitNetwork(net.image_encoder, net.mapper, peft.get_peft_model(net.language_model, config)).eval()

    assert torch.equal(wrapped.token_logprobs(features, batch), before)  # LoRA begins as nothing


def test_the_whole_network_equals_the_original_tool(shared_data):
    folder = shared_data / "legacy" / "kevin_vit_pooled_mlp_gpt2"
    expected = torch.load(folder / "expected.pt", weights_only=True)
    vision_cfg = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
    architecture = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": vision_cfg}
    encoder = build_image_encoder(ImageEncoderConfig(name="custom", architecture=architecture, output="pooled"))
    language_model = build_language_model(LanguageModelConfig(name="gpt2"), folder / "lm")
    mapper = build_mapper(MapperConfig(type="mlp", prefix_length=5), 64, 64, pooled=True)
    net = GitNetwork(encoder, mapper, language_model).eval()
    for prefix, part in (
        ("image_encoder.", encoder.visual),
        ("visual_projection.", mapper),
        ("language_model.", language_model),
    ):
        tensors = read_tensors(folder / "model_4.pt", (prefix,))
        named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        load_exactly(
            part,
            {name: t for name, t in named.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))},
            prefix,
        )
    tokens = expected["tokens"]

    with torch.no_grad():
        features = net.encode(expected["images"])
        prefix, _ = net.prefix(features)
        # that tool's loss takes every token for a target, the padding too
        found = net.token_logprobs(features, TextBatch([[]] * len(tokens), tokens.tolist()))

    torch.testing.assert_close(features.values[:, 0], expected["image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(prefix, expected["mapped"], atol=1e-5, rtol=0)
    logits = expected["logits"][:, prefix.shape[1] - 1 : -1]
    wanted = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert -found.mean().item() == pytest.approx(expected["loss"].item(), abs=1e-5)
