"""Every family of language models behind a prefix, against the model given the same tokens by their ids."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from git_caption.model.git import GitNetwork, TextBatch
from git_caption.model.language import build_language_model, position_ids, width
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import Features
from git_caption.params.model import LanguageModelConfig, MapperConfig
from tests.language_families import FAMILIES

EACH = pytest.mark.parametrize("family", FAMILIES)
PREFIXES = [[30, 31, 32], [40], [50, 51]]
PROMPTS = ["what is left of the star?", "", "a red"]
TARGETS = [[60], [61, 62, 63], [64, 65]]
ATOL = 2e-5  # worst seen 5e-6 on log-probabilities down to -30, fp32


def network_and_model(folder) -> tuple[GitNetwork, nn.Module]:
    """A network whose prefix is its features as they are, and the same model as transformers loads it."""
    language_model = build_language_model(LanguageModelConfig(name="any"), folder)
    mapper = build_mapper(MapperConfig(type="linear"), width(language_model), width(language_model), False)
    with torch.no_grad():
        for parameter in mapper.parameters():
            parameter.copy_(torch.eye(*parameter.shape) if parameter.dim() == 2 else torch.zeros_like(parameter))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return GitNetwork(nn.Identity(), mapper, language_model).eval(), reference


def embedded_tokens(model: nn.Module) -> Features:
    """Features that are the embeddings of `PREFIXES`, padded on the right."""
    rows = [model.get_input_embeddings()(torch.tensor(ids)) for ids in PREFIXES]
    mask = torch.arange(3) < torch.tensor([[len(ids)] for ids in PREFIXES])
    return Features(nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)


@EACH
@torch.no_grad()
def test_prefix_and_prompt_give_the_logits_of_their_tokens_row_by_row(family, published):
    net, reference = network_and_model(published(family))
    prompts = AutoTokenizer.from_pretrained(published(family))(PROMPTS)["input_ids"]

    inputs = net.language_inputs(embedded_tokens(reference), prompts)
    positions = {"position_ids": position_ids(inputs["attention_mask"])} if net.takes_positions else {}
    logits = net.language_model(**inputs, **positions).logits

    for row, (prefix, prompt) in enumerate(zip(PREFIXES, prompts, strict=True)):
        wanted = reference(input_ids=torch.tensor([prefix + prompt])).logits[0]
        found = logits[row, -len(wanted) :].log_softmax(-1)
        torch.testing.assert_close(found, wanted.log_softmax(-1), atol=ATOL, rtol=0)


@EACH
@torch.no_grad()
def test_logprobs_of_a_batch_are_those_of_the_tokens_row_by_row(family, published):
    net, reference = network_and_model(published(family))
    prompts = AutoTokenizer.from_pretrained(published(family))(PROMPTS)["input_ids"]

    found = net.token_logprobs(embedded_tokens(reference), TextBatch(prompts, TARGETS))

    for row, (prefix, prompt, target) in enumerate(zip(PREFIXES, prompts, TARGETS, strict=True)):
        before = prefix + prompt
        steps = reference(input_ids=torch.tensor([before + target])).logits[0].log_softmax(-1)[len(before) - 1 :]
        wanted = [steps[number, token].item() for number, token in enumerate(target)]
        assert found[row].tolist() == pytest.approx(wanted + [0.0] * (3 - len(target)), abs=ATOL)


@EACH
def test_families_are_what_they_are_called(family, published):
    model = build_language_model(LanguageModelConfig(name="any"), published(family))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight

    assert (model.config.model_type, tied) == (FAMILIES[family].model_type, FAMILIES[family].tied)
    assert width(model) == FAMILIES[family].sizes.get("word_embed_proj_dim", 64)
