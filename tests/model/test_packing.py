"""Texts packed into few rows: where they lie, and that each is as probable as it is by itself."""

from __future__ import annotations

import pytest
import torch

from git_caption.model import packing
from git_caption.model.git import GitNetwork, TextBatch
from git_caption.model.language import build_language_model
from git_caption.model.vision import Features
from git_caption.params.model import LanguageModelConfig
from tests.model.test_git import ARCHITECTURES, ATOL, PROMPTS, TARGETS, network, ragged_features

GROUPED = {**ARCHITECTURES["llama"], "num_key_value_heads": 1, "pad_token_id": 0}
SIZES = {
    **ARCHITECTURES,
    "mistral": {**GROUPED, "sliding_window": 3},
    "qwen2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 3},
    "gpt_neox": ARCHITECTURES["llama"],
    "cohere": GROUPED,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "vocab_size": 90},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 90, "alibi": True},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
}


def _model(family: str):
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2}
    architecture = {"model_type": family, **SIZES[family], **special}
    return build_language_model(LanguageModelConfig(name="custom", architecture=architecture))


def test_texts_lie_in_rows_of_like_length(monkeypatch):
    monkeypatch.setattr(packing, "ROW", 5)
    texts = [[100, 101], [200, 201, 202, 203], [], [300, 301, 302]]

    found = packing.layout(texts, [1, 2, 0, 3], torch.device("cpu"))

    assert found.index.tolist() == [[200, 201, 202, 203, 200], [300, 301, 302, 100, 101]]
    assert found.positions.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert found.asked.tolist() == [9, 2, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("family", "way"),
    [
        *[(family, "positions") for family in ("gpt2", "llama", "mistral", "qwen2", "gemma2", "gpt_neox", "cohere")],
        ("opt", "mask"),  # its masks do not look at positions
        ("bloom", None),  # takes no positions
        ("falcon", None),  # nor a mask of this form
        ("lfm2", None),  # its convolutions read what stands before a text
    ],
)
def test_a_model_is_asked_whether_it_keeps_texts_apart(family, way):
    model = _model(family)
    modes = {}
    for number, part in enumerate(model.modules()):
        part.training = modes[part] = number % 3 == 0

    assert packing.way_of(model) == way
    assert {part: part.training for part in model.modules()} == modes


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_packed_texts_are_as_probable_as_padded_ones_and_their_gradients_are_equal(family, monkeypatch):
    monkeypatch.setattr(packing, "ROW", 7)
    features = ragged_features()
    batch = TextBatch([*PROMPTS, [9]], [*TARGETS, [26, 27]], images=[0, 1, 2, 3, 0])
    found = {}
    for padded in (False, True):
        net = network(family)
        if padded:
            monkeypatch.setattr(packing, "way_of", lambda model: None)
        logprobs = net.token_logprobs(features, batch)
        logprobs.sum().backward()
        found[padded] = [logprobs.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]
    assert len(found[True]) > 20
    for packed, padded in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(packed, padded, atol=ATOL, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_texts_are_kept_apart_in_lower_precision_too(family):
    net, features = network(family), ragged_features()
    with torch.no_grad():
        exact = net.token_logprobs(features, TextBatch(PROMPTS, TARGETS))
        with torch.autocast("cpu", torch.bfloat16):
            found = net.token_logprobs(features, TextBatch(PROMPTS, TARGETS))
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


def test_several_texts_on_one_image_have_its_features():
    net = network("gpt2")
    features = ragged_features()
    found = net.token_logprobs(features, TextBatch([[5], [6], [5]], [[8], [9, 10], [8]], images=[2, 0, 2]))
    chosen = Features(features.values[[2, 0, 2]], features.mask[[2, 0, 2]])
    assert torch.allclose(found, net.token_logprobs(chosen, TextBatch([[5], [6], [5]], [[8], [9, 10], [8]])), atol=ATOL)
    assert found[0].tolist() == pytest.approx(found[2].tolist(), abs=ATOL) and found[0, 0] != found[1, 0]


def test_a_model_that_cannot_pack_is_given_padded_texts():
    net = network("gpt2")
    bloom = GitNetwork(net.image_encoder, net.mapper, _model("bloom")).eval()
    features = ragged_features()
    found = bloom.token_logprobs(features, TextBatch(PROMPTS, TARGETS))
    for row in (0, 1, 3):
        own = Features(features.values[row : row + 1], features.mask[row : row + 1])
        wanted = bloom.token_logprobs(own, TextBatch([PROMPTS[row]], [TARGETS[row]]))[0]
        torch.testing.assert_close(found[row, : len(wanted)], wanted, atol=ATOL, rtol=0)


def test_texts_of_one_token_read_no_token():
    net, features = network("gpt2"), ragged_features()
    found = net.token_logprobs(features, TextBatch([[]] * 4, [[8]] * 4))
    assert found.shape == (4, 1)
    prefix = net.prefix(features)[0][1:2, :3]
    wanted = net.language_model(inputs_embeds=prefix).logits[0, -1].log_softmax(0)[8]
    assert found[1, 0].item() == pytest.approx(wanted.item(), abs=ATOL)
