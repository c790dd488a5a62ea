"""Log-probabilities of pretrained captioners against the losses that transformers' own models compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError
from git_caption.model.git import TextBatch
from git_caption.model.pretrained_network import PretrainedNetwork
from tests.pretrained_models import FAMILIES, SIDE

TARGETS = [[7, 9, 8, 11, 3], [12, 3], [5, 6, 5, 3]]
PROMPTS: dict[str, list[list[int]]] = {"none": [[], [], []], "of several lengths": [[13], [], [9, 14, 6]]}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, PretrainedNetwork]:
    made = {}
    for name, make in FAMILIES.items():
        torch.manual_seed(5)
        captioner = Captioner.load(make(tmp_path_factory.mktemp(name) / name), device="cpu")
        assert isinstance(captioner.network, PretrainedNetwork)
        made[name] = captioner.network
    return made


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def own_loss(
    family: str, network: PretrainedNetwork, pixels: torch.Tensor, prompt: list[int], target: list[int]
) -> Any:
    """The mean loss of one text as the model of transformers computes it, from labels that are not shifted."""
    model: Any = network.model
    text = torch.tensor([[*network.start_ids, *prompt, *target]])
    labels = torch.tensor([[-100] * (text.shape[1] - len(target)) + target])
    if family == "blip_answering":
        asked, answer = torch.tensor([prompt]), torch.tensor([[*network.start_ids, *target]])
        masked = answer.clone().index_fill_(1, torch.tensor([0]), -100)
        return model(pixel_values=pixels, input_ids=asked, decoder_input_ids=answer, labels=masked).loss
    if family.startswith("blip2"):
        images = [model.config.image_token_id] * model.config.num_query_tokens
        before = [*images, *(prompt or network.without_prompt)]  # type: ignore[misc]
        if family == "blip2_seq2seq":
            return model(pixel_values=pixels, input_ids=torch.tensor([before]), labels=torch.tensor([target])).loss
        labels = torch.tensor([[-100] * len(before) + target])
        return model(pixel_values=pixels, input_ids=torch.tensor([before + target]), labels=labels).loss
    if family.startswith("vit"):  # its labels are shifted by the model: the start token is not among them
        return model(pixel_values=pixels, labels=torch.tensor([target])).loss
    return model(pixel_values=pixels, input_ids=text, labels=labels).loss


# transformers' own loss of a VisionEncoderDecoder takes no prompt
CASES = [(family, name) for family in FAMILIES for name in PROMPTS if name == "none" or not family.startswith("vit")]


@pytest.mark.parametrize(("family", "prompts"), CASES)
def test_log_probabilities_are_those_of_the_loss_that_the_model_computes_itself(family, prompts, networks, pixels):
    network, given = networks[family], PROMPTS[prompts]
    if family == "blip_answering":  # a question has special tokens at least
        given = [[2, *prompt, 3] for prompt in given]
    with torch.no_grad():
        found = network.token_logprobs(network.encode(pixels), TextBatch(given, TARGETS))
        expected = [
            float(own_loss(family, network, pixels[row : row + 1], given[row], TARGETS[row])) for row in range(3)
        ]
    lengths = torch.tensor([len(target) for target in TARGETS])
    assert found.shape == (3, 5) and bool((found[1, 2:] == 0).all())
    torch.testing.assert_close(-found.sum(1) / lengths, torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert len({round(value, 2) for value in expected}) == 3, "the losses must differ, or the test shows little"


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_about_one_image_in_any_batch_have_the_log_probabilities_of_each_alone(family, networks, pixels):
    network, prompts = networks[family], [[13], [9, 14, 6], [13], [8]]
    targets, images = [*TARGETS, []], [1, 0, 1, 2]
    with torch.no_grad():
        features = network.encode(pixels)
        found = network.token_logprobs(features, TextBatch(prompts, targets, images))
        for row, image in enumerate(images):
            alone = network.encode(pixels[image : image + 1])
            single = network.token_logprobs(alone, TextBatch([prompts[row]], [targets[row]]))
            torch.testing.assert_close(found[row, : len(targets[row])], single[0], atol=1e-5, rtol=1e-5)


def test_too_long_a_text_is_refused(networks, pixels):
    network = networks["blip"]
    features = network.encode(pixels[:1])
    assert network.room == 47
    assert network.token_logprobs(features, TextBatch([[]], [[5] * 48])).shape == (1, 48)
    with pytest.raises(UsageError, match="the language model has 48 positions"):
        network.token_logprobs(features, TextBatch([[]], [[5] * 49]))
