"""Our loop against transformers' `generate` on one row at a time, which knows no batch and no padding."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from git_caption.decoding.generate import Identity, generate
from git_caption.model.git import GitNetwork
from git_caption.model.vision import Features
from git_caption.params.decoding import Decoding
from git_caption.text.tokenizer import train_bpe
from tests.small_network import SETTINGS, TEXTS, VOCABULARY, network, some_features

PROMPTS = ["", "what is it?", "a", "how many small green squares are left of the star?", "is it red? "]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


def alone(net: GitNetwork, features: Features, prompt: list[int], decoding: Decoding, end: int) -> list[list[int]]:
    """The ids transformers gives for one row."""
    with torch.no_grad():
        inputs = net.language_inputs(features, [prompt])
        net.language_model.generation_config = GenerationConfig()
        config = GenerationConfig(
            num_beams=decoding.num_beams,
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=decoding.min_new_tokens,
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            eos_token_id=end,
            pad_token_id=end,
            **(
                {
                    "num_return_sequences": decoding.num_captions,
                    "length_penalty": decoding.length_penalty,
                    "early_stopping": True,
                }
                if decoding.num_beams > 1
                else {}
            ),
        )
        rows = net.language_model.generate(**inputs, generation_config=config).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def drawn_decoding(source: random.Random) -> Decoding:
    """Greedy or beam search with some of the other keys set."""
    beams = source.choice([1, 1, 2, 3, 5])
    longest = source.choice([5, 12, 20])
    return Decoding(
        num_beams=beams,
        max_new_tokens=longest,
        min_new_tokens=source.choice([0, 0, 3, longest]),
        repetition_penalty=source.choice([1.0, 1.0, 1.3]),
        no_repeat_ngram_size=source.choice([0, 0, 2]),
        length_penalty=source.choice([1.0, 0.0, 0.6, -1.0]),
        num_captions=source.randint(1, beams) if beams > 1 else 1,
    )


def compare(number: int, tokenizer) -> int:
    """A random model and random decoding keys: the number of tokens compared."""
    source = random.Random(number)
    net = network(source.choice(sorted(SETTINGS)), tokenizer, seed=number)
    decoding = drawn_decoding(source)
    rows = [source.randrange(len(PROMPTS)) for _ in range(source.randint(2, 6))]
    prompts = [tokenizer(PROMPTS[row]).input_ids for row in rows]
    features = some_features(len(rows), seed=number)
    names = [Identity(str(place)) for place in range(len(rows))]
    batch = generate(net, features, prompts, decoding, tokenizer, names)
    tokens = 0
    for place, texts in enumerate(batch):
        one = features.select(torch.tensor([place]))
        expected = alone(net, one, prompts[place], decoding, tokenizer.eos_token_id)
        found = [list(text.token_ids) for text in texts]
        assert found == expected, f"model {number}, row {place}, {decoding}"
        tokens += sum(map(len, found))
    # what transformers cannot say of one row: sampling by generators of our own, and where stop texts are cut
    sampling = replace(
        decoding,
        num_beams=1,
        do_sample=True,
        temperature=source.choice([0.7, 1.0, 1.6]),
        top_k=source.choice([0, 0, 5]),
        top_p=source.choice([1.0, 1.0, 0.8]),
        num_captions=source.randint(1, 3),
        with_scores=True,
    )
    for other in (decoding, sampling, replace(decoding, stop=("e", " r")), replace(sampling, stop=("a", "."))):
        batch = generate(net, features, prompts, other, tokenizer, names)
        for place, texts in enumerate(batch):
            one = features.select(torch.tensor([place]))
            single = generate(net, one, [prompts[place]], other, tokenizer, [names[place]])[0]
            assert [(text.text, text.token_ids) for text in single] == [(text.text, text.token_ids) for text in texts]
            if other.with_scores:
                assert [text.logprob for text in single] == pytest.approx([text.logprob for text in texts], abs=1e-9)
    return tokens


@pytest.mark.filterwarnings("ignore:Passing")
def test_batches_of_random_models_give_what_transformers_gives_row_by_row(tokenizer):
    assert sum(compare(number, tokenizer) for number in range(20)) > 500


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Passing")
def test_batches_of_two_hundred_random_models_give_what_transformers_gives_row_by_row(tokenizer):
    assert sum(compare(number, tokenizer) for number in range(20, 220)) > 5000


def test_beams_end_only_for_good_where_stop_texts_end_all_of_them_at_once(tokenizer):
    """All continuations of a text may hold a stop text; what has ended then is all there is."""
    for seed in range(4):
        net = network("gpt2", tokenizer, seed)
        decoding = Decoding(num_beams=3, num_captions=3, max_new_tokens=12, stop=tuple("abcdefghijklmnopqrstuvwxyz "))
        names = [Identity("a"), Identity("b")]
        batch = generate(net, some_features(2), [[], [5, 6]], decoding, tokenizer, names)
        assert [len(texts) for texts in batch] == [3, 3]


def frequencies(net: GitNetwork, tokenizer, decoding: Decoding, count: int) -> torch.Tensor:
    """How often each token came first in `count` samples."""
    features = some_features(1)
    names = [Identity(f"key {number}") for number in range(count)]
    rows = generate(net, features.select(torch.zeros(count).long()), [[]] * count, decoding, tokenizer, names)
    return torch.bincount(torch.tensor([texts[0].token_ids[0] for texts in rows]), minlength=len(tokenizer)) / count


@pytest.mark.parametrize(
    "keys",
    [{}, {"temperature": 2.0}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.8}],
    ids=str,
)
def test_samples_follow_the_models_probabilities(keys, tokenizer):
    net = network("llama", tokenizer, 3)
    decoding = replace(Decoding(num_beams=1, max_new_tokens=1, do_sample=True, temperature=1.0), **keys)
    with torch.no_grad():
        logits = net.language_model(**net.language_inputs(some_features(1), [[]])).logits[0, -1]
    probabilities = (logits / decoding.temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = order[: decoding.top_k] if decoding.top_k else order
    within = probabilities[kept] / probabilities[kept].sum()
    kept = kept[: int((within.cumsum(0) < decoding.top_p).sum()) + 1]
    expected = torch.zeros_like(probabilities)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    count = 3000
    found = frequencies(net, tokenizer, decoding, count)
    assert found[expected == 0].sum() == 0
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() <= 4.5 * deviation + 3 / count).all()


def test_a_context_is_read_once_however_many_beams_follow_it(tokenizer):
    net = network("gpt2", tokenizer)
    shapes: list[tuple[int, ...]] = []

    def seen(_, __, given):
        shapes.append(tuple(next(given[name] for name in ("inputs_embeds", "input_ids") if name in given).shape[:2]))

    net.language_model.register_forward_pre_hook(seen, with_kwargs=True)
    decoding = Decoding(num_beams=4, max_new_tokens=5, min_new_tokens=5)
    generate(net, some_features(2), [[], []], decoding, tokenizer, [Identity("a"), Identity("b")])
    assert shapes == [(2, 2), (8, 1), (8, 1), (8, 1), (8, 1)]


def test_ended_texts_leave_the_batch(tokenizer):
    net = network("gpt2", tokenizer, 1)
    rows: list[int] = []

    def seen(_, __, given):
        rows.append(len(given["inputs_embeds"] if "inputs_embeds" in given else given["input_ids"]))

    net.language_model.register_forward_pre_hook(seen, with_kwargs=True)
    count = 8
    names = [Identity(str(number)) for number in range(count)]
    found = generate(
        net, some_features(count), [[]] * count, Decoding(num_beams=1, max_new_tokens=15), tokenizer, names
    )
    lengths = [len(texts[0].token_ids) for texts in found]
    assert len(set(lengths)) > 1
    assert rows == [sum(length > step for length in lengths) for step in range(max(lengths))]
