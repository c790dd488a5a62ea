"""Self-critical training: the loss against one computed caption by caption, and keys that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from git_caption.captioner.captioner import Captioner, Identity
from git_caption.decoding.generate import generate
from git_caption.metrics import ptb
from git_caption.metrics.cider import CiderD, document_frequencies
from git_caption.model.git import TextBatch
from git_caption.params.decoding import Decoding, DecodingParams
from git_caption.params.model import CaptionerConfig, ImageEncoderConfig, LanguageModelConfig, MapperConfig
from git_caption.params.schema import faults
from git_caption.params.training.run import TrainingParams
from git_caption.samples.collate import Batch
from git_caption.text.tokenizer import train_bpe
from git_caption.training.scst import ScstObjective
from tests.small_network import TEXTS, VOCABULARY, network, some_features

LONGEST = 8  # tokens: of the random network's texts some end and some break off


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def captioner(tokenizer) -> Captioner:
    """Of a family without dropout, so that what is computed in training can be computed again."""
    config = CaptionerConfig(
        ImageEncoderConfig("custom", architecture={}),
        MapperConfig("mlp", prefix_length=2),
        LanguageModelConfig("llama"),
        decoding=DecodingParams(max_new_tokens=LONGEST),
    )
    net = network("llama", tokenizer, seed=4)
    with torch.no_grad():
        net.language_model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 3
    return Captioner(config, net, tokenizer)


DRAWN = Decoding(num_beams=1, max_new_tokens=LONGEST, do_sample=True, temperature=1.0, num_captions=4)
SAMPLES = DRAWN.num_captions


def _drawn(captioner, decoding):
    names = [Identity(str(100 + number)) for number in range(3)]
    return generate(captioner.network.eval(), some_features(3), [[]] * 3, decoding, captioner.tokenizer, names)


@pytest.fixture
def references(captioner) -> list[tuple[str, ...]]:
    """Some of the texts that will be drawn: random ones are like no others."""
    return [tuple(text.text for text in row[: 1 + n]) for n, row in enumerate(_drawn(captioner, DRAWN))]


def _batch(references, pictures: list[int]) -> Batch:
    keys, seeds = [f"picture {number}" for number in pictures], [100 + number for number in pictures]
    known = [references[number] for number in pictures]
    return Batch(keys, torch.empty(0), torch.empty(0), [], [], references=known, seeds=seeds)


def _ended(text: str) -> str:
    return f"{ptb.tokenize([text])[0]} END".strip()


def _cider(references) -> CiderD:
    return CiderD(document_frequencies([[_ended(text) for text in texts] for texts in references]))


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
def test_the_gradient_is_that_of_log_probabilities_weighted_by_advantages(baseline, captioner, references):
    net, cider, features, batch = captioner.network, _cider(references), some_features(3), _batch(references, [0, 1, 2])
    objective = ScstObjective(captioner, cider, SAMPLES, baseline)
    objective.train()
    loss = objective(features, batch)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    assert objective.training and net.training and objective.count(batch) == 3 * SAMPLES
    net.zero_grad()

    texts, end = _drawn(captioner, DRAWN), captioner.tokenizer.eos_token_id
    assert {text.token_ids[-1] == end for row in texts for text in row} == {True, False}

    def reward(text, picture):
        words = _ended(text.text) if text.token_ids[-1] == end else ptb.tokenize([text.text])[0]
        return cider.scores([words], [_ended(known) for known in references[picture]])[0]

    rewards = [[reward(text, picture) for text in row] for picture, row in enumerate(texts)]
    if baseline == "greedy":
        ones = _drawn(captioner, Decoding(num_beams=1, max_new_tokens=LONGEST))
        against = [[reward(row[0], picture)] * SAMPLES for picture, row in enumerate(ones)]
    else:
        against = [[(sum(row) - own) / (SAMPLES - 1) for own in row] for row in rewards]
    wanted = torch.zeros((), dtype=torch.float64)
    embeddings = net.language_model.get_input_embeddings()
    prefixes, _ = net.prefix(features)
    for picture, row in enumerate(texts):
        for text, own, other in zip(row, rewards[picture], against[picture], strict=True):
            tokens = torch.tensor(text.token_ids)
            inputs = torch.cat([prefixes[picture], embeddings(tokens)])[None]
            logits = net.language_model(inputs_embeds=inputs).logits[0, -len(tokens) - 1 : -1]
            logprob = logits.log_softmax(1)[torch.arange(len(tokens)), tokens].sum()
            wanted = wanted - (own - other) * logprob
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-4) and abs(wanted.item()) > 0.1
    for name, parameter in net.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-4), name
    assert objective.take_measures() == pytest.approx([sum(map(sum, rewards)), sum(map(sum, against))])
    assert objective.take_measures() == [0.0, 0.0]


def test_a_caption_ends_at_a_stop_text_of_the_checkpoint_as_in_inference(captioner, references):
    drawn, net, cider, features = _drawn(captioner, DRAWN), captioner.network, _cider(references), some_features(3)
    stop = drawn[0][0].text[len(drawn[0][0].text) // 2]
    captioner.config = replace(captioner.config, decoding=DecodingParams(max_new_tokens=LONGEST, stop=(stop,)))
    loss = ScstObjective(captioner, cider, SAMPLES, "mean")(features, _batch(references, [0, 1, 2]))

    wanted, stopped = 0.0, 0
    for picture, row in enumerate(drawn):
        rewards, logprobs = [], []
        for text in row:
            read = [captioner.tokenizer.decode(text.token_ids[:n]) for n in range(len(text.token_ids) + 1)]
            length = next((n for n, begin in enumerate(read) if stop in begin), None)
            stopped += length is not None
            ended = length is not None or text.token_ids[-1] == captioner.tokenizer.eos_token_id
            words = text.text if length is None else read[length].partition(stop)[0]
            words = _ended(words) if ended else ptb.tokenize([words])[0]
            rewards += cider.scores([words], [_ended(known) for known in references[picture]])
            batch = TextBatch([[]], [list(text.token_ids[:length])])
            logprobs.append(net.token_logprobs(features.select(torch.tensor([picture])), batch).sum().item())
        means = [(sum(rewards) - own) / (SAMPLES - 1) for own in rewards]
        wanted -= sum((own - mean) * logprob for own, mean, logprob in zip(rewards, means, logprobs, strict=True))
    assert stopped > 0 and loss.item() == pytest.approx(wanted, abs=1e-4)


def test_what_is_drawn_of_a_picture_does_not_depend_on_the_others_of_its_batch(captioner, references):
    features = some_features(3)
    objective = ScstObjective(captioner, _cider(references), SAMPLES, "mean")
    whole = objective(features, _batch(references, [0, 1, 2])).item()
    alone = [objective(features.select(torch.tensor([n])), _batch(references, [n])).item() for n in range(3)]
    assert whole == pytest.approx(sum(alone), abs=1e-4) and len(set(alone)) == 3


def test_weights_get_gradients_where_the_computation_is_in_bfloat16(captioner, references):
    """What autocast cast without a gradient, while captions were drawn, is not what the loss is computed with."""
    captioner.network.float()
    objective = ScstObjective(captioner, _cider(references), SAMPLES, "mean")
    features = some_features(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(type(features)(features.values.float(), features.mask), _batch(references, [0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in captioner.network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "missing key 'init_from': objective scst goes on from a captioner"),
        ({"init_from": "data/shapes/model", "scst_samples": 1}, "'scst_samples': the mean of the other captions needs"),
        ({"objective": "caption", "scst_samples": 3}, "'scst_samples': an option of 'objective': 'scst'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, message):
    values = {"objective": "scst", "data": "data/shapes", "output_dir": "checkpoints/scst", **changes}
    assert any(message in fault for fault in faults(TrainingParams, values, "test"))
