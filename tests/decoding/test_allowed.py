from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from git_caption.captioner.captioner import Captioner
from git_caption.decoding.allowed import AllowedTexts
from git_caption.decoding.generate import Identity, generate
from git_caption.errors import DataError, UsageError
from git_caption.model.git import TextBatch
from git_caption.params.decoding import Decoding, DecodingParams
from git_caption.text.tokenizer import train_bpe
from tests import hub_cache
from tests.pretrained_models import FAMILIES
from tests.small_captioner import small_captioner
from tests.small_network import SETTINGS, TEXTS, VOCABULARY, network, some_features

ANSWERS = ("red", "red and green", "green", "yes", "yes.", "no", "two small squares", "left of the star", "a", "blue")
CLOSED = Decoding(num_beams=len(ANSWERS), allowed_texts=ANSWERS, length_penalty=0.0, with_scores=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


def logprobs(net, tokenizer, row: int, count: int, prompt: str) -> dict[str, float]:
    """Of every allowed text, by the network's own forward pass."""
    features = some_features(count).select(torch.full((len(ANSWERS),), row))
    targets = [[*tokenizer(f" {text}" if prompt else text).input_ids, tokenizer.eos_token_id] for text in ANSWERS]
    with torch.no_grad():
        found = net.token_logprobs(features, TextBatch([tokenizer(prompt).input_ids] * len(ANSWERS), targets))
    return dict(zip(ANSWERS, found.sum(dim=1).tolist(), strict=True))


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("prompt", ["", "what is it?"])
def test_with_a_beam_for_each_text_the_texts_come_in_order_of_their_probability(family, prompt, tokenizer):
    net = network(family, tokenizer, 4)
    decoding = replace(CLOSED, num_captions=len(ANSWERS))
    prompts = [tokenizer(prompt).input_ids] * 3
    names = [Identity(str(row)) for row in range(3)]
    rows = generate(net, some_features(3), prompts, decoding, tokenizer, names, after_prompt=bool(prompt))
    for row, texts in enumerate(rows):
        expected = logprobs(net, tokenizer, row, 3, prompt)
        assert [text.text for text in texts] == sorted(ANSWERS, key=lambda text: -expected[text])
        assert [text.logprob for text in texts] == pytest.approx([expected[text.text] for text in texts], abs=1e-4)


def test_greedy_goes_down_the_trie(tokenizer):
    for seed in range(5):
        net = network("gpt2", tokenizer, seed)
        spelled = {text: [*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in ANSWERS}
        found = generate(net, some_features(1), [[]], replace(CLOSED, num_beams=1), tokenizer, [Identity("a")])[0][0]
        ids: list[int] = []
        while ids not in spelled.values():
            with torch.no_grad():
                inputs = net.language_inputs(some_features(1), [ids])
                logits = net.language_model(**inputs).logits[0, -1]
            following = {spell[len(ids)] for spell in spelled.values() if spell[: len(ids)] == ids}
            ids.append(max(following, key=lambda token: float(logits[token])))
        assert list(found.token_ids) == ids
        assert found.text == next(text for text, spell in spelled.items() if spell == ids)


@pytest.mark.parametrize("decoding", [CLOSED, replace(CLOSED, num_beams=3), replace(CLOSED, num_beams=1)])
def test_a_batch_gives_what_its_rows_give(decoding, tokenizer):
    net = network("llama", tokenizer, 2)
    prompts = [tokenizer(text).input_ids for text in ("what?", "how many small green squares are there?", "is it?")]
    names = [Identity(str(row)) for row in range(3)]
    batch = generate(net, some_features(3), prompts, decoding, tokenizer, names)
    for row in range(3):
        one = some_features(3).select(torch.tensor([row]))
        alone = generate(net, one, [prompts[row]], decoding, tokenizer, [names[row]])
        assert [text.token_ids for text in alone[0]] == [text.token_ids for text in batch[row]]


def test_samples_are_allowed_texts_too(tokenizer):
    net = network("gpt2", tokenizer, 1)
    decoding = replace(CLOSED, num_beams=1, do_sample=True, temperature=3.0, num_captions=20)
    found = {text.text for text in generate(net, some_features(1), [[]], decoding, tokenizer, [Identity("a")])[0]}
    assert len(found) > 3 and found <= set(ANSWERS)


def test_a_text_is_given_back_letter_for_letter(tokenizer):
    odd = ("Two  spaces", "naïve café", "<|angle|>")
    net = network("gpt2", tokenizer)
    decoding = replace(CLOSED, num_beams=3, num_captions=3, allowed_texts=odd)
    found = generate(net, some_features(1), [[]], decoding, tokenizer, [Identity("a")])[0]
    assert {text.text for text in found} == set(odd)


def test_a_prompt_that_leaves_no_room_for_the_longest_text_is_refused(tokenizer):
    longest = AllowedTexts(ANSWERS, tokenizer, after_prompt=True).longest
    net = network("gpt2", tokenizer)
    room = 64 - 2 - longest
    prompts = [[5] * room, [5] * (room + 1)]
    generate(net, some_features(1), prompts[:1], CLOSED, tokenizer, [Identity("a")], after_prompt=True)
    with pytest.raises(
        DataError, match=rf"b: prefix and prompt have {64 - longest + 1} tokens.*{longest} tokens cannot"
    ):
        generate(net, some_features(1), prompts[1:], CLOSED, tokenizer, [Identity("b")], after_prompt=True)


def test_a_text_without_tokens_is_refused(tokenizer):
    with pytest.raises(UsageError, match=r"no tokens for ''"):
        AllowedTexts(["yes", ""], tokenizer, after_prompt=False)


@pytest.mark.parametrize("kind", ["ours", "blip", "git"])
def test_what_others_of_the_batch_are_asked_does_not_matter(kind, tmp_path):
    """An allowed text is spelled otherwise after a prompt than where there is none."""
    if kind == "ours":
        captioner = small_captioner(hub_cache.language_model(tmp_path / "lm"))
    else:
        captioner = Captioner.load(FAMILIES[kind](tmp_path / kind), device="cpu")
    (tmp_path / "answers.txt").write_text("\n".join(ANSWERS))
    params = DecodingParams(allowed_texts=str(tmp_path / "answers.txt"), num_beams=3, with_scores=True)
    decoding = captioner.decoding(params, "answer")
    prompts = ["", "what is it?", "", "why"]
    noise = np.random.default_rng(0).integers(0, 256, (len(prompts), 60, 60, 3), dtype=np.uint8)
    features = captioner.encode_many([captioner.transform(Image.fromarray(image)) for image in noise], 4)
    names = [Identity(str(row)) for row in range(4)]
    together = captioner.generate(features, prompts, decoding, names)
    for row, texts in enumerate(together):
        alone = captioner.generate(features.select(torch.tensor([row])), [prompts[row]], decoding, [names[row]])[0]
        assert [text.text for text in texts] == [text.text for text in alone]
        assert texts[0].logprob == pytest.approx(alone[0].logprob, abs=1e-4)
