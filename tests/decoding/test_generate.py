from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from git_caption.decoding.generate import Generated, Identity, derived_seed, generate
from git_caption.errors import DataError
from git_caption.model.git import GitNetwork
from git_caption.model.mapping import MlpMapper
from git_caption.model.vision import Features
from git_caption.params.decoding import Decoding
from git_caption.text.tokenizer import decode, train_bpe
from tests.small_network import PREFIX, SETTINGS, TEXTS, VOCABULARY, WIDTH, network, some_features

PROMPTS = ["", "what is it?", "a", "how many small green squares are left of the star?", "is it red? "]
DECODINGS = {
    "greedy": Decoding(num_beams=1, max_new_tokens=12),
    "beam": Decoding(num_beams=3, max_new_tokens=12),
    "beams given": Decoding(num_beams=4, max_new_tokens=9, num_captions=3, length_penalty=0.6, with_scores=True),
    "sampling": Decoding(num_beams=1, max_new_tokens=12, do_sample=True, temperature=0.9, top_p=0.95, num_captions=2),
    "penalties": Decoding(num_beams=2, max_new_tokens=12, repetition_penalty=1.4, no_repeat_ngram_size=2),
    "lengths": Decoding(num_beams=3, max_new_tokens=8, min_new_tokens=5),
    "stop, greedy": Decoding(num_beams=1, max_new_tokens=15, stop=("e", " r")),
    "stop, beam": Decoding(num_beams=3, max_new_tokens=15, stop=("e", " r")),
    "stop, beams given": Decoding(num_beams=3, max_new_tokens=15, stop=("e", " r"), num_captions=3),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


def run(net: GitNetwork, tokenizer, decoding: Decoding, rows: list[int]) -> list[list[Generated]]:
    features = some_features(len(PROMPTS)).select(torch.tensor(rows))
    prompts = [tokenizer(PROMPTS[row]).input_ids for row in rows]
    return generate(net, features, prompts, decoding, tokenizer, [Identity(f"image {row}", row) for row in rows])


def ids_of(rows: list[list[Generated]]) -> list[list[tuple[int, ...]]]:
    return [[text.token_ids for text in texts] for texts in rows]


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS.keys())
def test_a_batch_gives_the_texts_its_rows_give_one_by_one(family, decoding, tokenizer):
    rows = list(range(len(PROMPTS)))
    lengths = set()
    for seed in range(3):
        net = network(family, tokenizer, seed)
        batch = run(net, tokenizer, decoding, rows)
        singles = [run(net, tokenizer, decoding, [row])[0] for row in rows]
        assert ids_of(batch) == ids_of(singles)
        lengths |= {len(text.token_ids) for texts in batch for text in texts}
        for texts, alone in zip(batch, singles, strict=True):
            assert len(texts) == decoding.num_captions
            if decoding.with_scores:
                assert [text.logprob for text in texts] == pytest.approx([text.logprob for text in alone], abs=1e-5)
    assert ids_of(run(net, tokenizer, decoding, rows[::-1])) == ids_of(batch[::-1])
    assert len(lengths) > 1, "the texts must end at different lengths, or the test shows nothing"


@pytest.mark.parametrize("family", SETTINGS)
def test_float32_batches_too(family, tokenizer):
    net = network(family, tokenizer, 3, torch.float32)
    for decoding in DECODINGS.values():
        batch = run(net, tokenizer, decoding, [0, 1, 3])
        assert ids_of(batch) == ids_of([run(net, tokenizer, decoding, [row])[0] for row in (0, 1, 3)])


def greedy_by_hand(net: GitNetwork, features: Features, prompt: list[int], count: int, end: int) -> list[int]:
    """Greedy search without a cache, without padding and without transformers' loop."""
    embed = net.language_model.get_input_embeddings()
    ids: list[int] = []
    for _ in range(count):
        values = torch.cat([net.mapper(features.values, features.mask)[0], embed(torch.tensor(prompt + ids).long())])
        ids.append(int(net.language_model(inputs_embeds=values[None]).logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids


@pytest.mark.parametrize("family", SETTINGS)
def test_greedy_equals_a_loop_by_hand(family, tokenizer):
    with torch.no_grad():
        for seed in range(5):
            net = network(family, tokenizer, seed)
            batch = run(net, tokenizer, DECODINGS["greedy"], [0, 1, 3])
            for found, row in zip(batch, [0, 1, 3], strict=True):
                features = some_features(len(PROMPTS)).select(torch.tensor([row]))
                prompt = tokenizer(PROMPTS[row]).input_ids
                ids = greedy_by_hand(net, features, prompt, 12, tokenizer.eos_token_id)
                assert found[0].token_ids == tuple(ids)
                assert found[0].text == decode(tokenizer, ids).strip()


def test_one_row_of_context_is_enough(tokenizer):
    net = network("gpt2", tokenizer)
    net.mapper = MlpMapper(6, WIDTH, 1).double()
    features = some_features(1)
    found = generate(net, features, [[]], DECODINGS["greedy"], tokenizer, [Identity("a")])
    with torch.no_grad():
        assert found[0][0].token_ids == tuple(greedy_by_hand(net, features, [], 12, tokenizer.eos_token_id))


@pytest.mark.parametrize("family", SETTINGS)
def test_scores_are_those_of_the_plain_model_and_ordered(family, tokenizer):
    net = network(family, tokenizer, 1)
    for row in (0, 3):
        texts = run(net, tokenizer, DECODINGS["beams given"], [0, 3])[[0, 3].index(row)]
        features = some_features(len(PROMPTS)).select(torch.tensor([row]))
        prompt = tokenizer(PROMPTS[row]).input_ids
        embed = net.language_model.get_input_embeddings()
        for text in texts:
            ids = list(text.token_ids)
            with torch.no_grad():
                context = torch.cat(
                    [net.mapper(features.values, features.mask)[0], embed(torch.tensor(prompt + ids).long())]
                )
                logits = net.language_model(inputs_embeds=context[None]).logits[0].log_softmax(-1)
            expected = sum(float(logits[PREFIX + len(prompt) + place - 1, token]) for place, token in enumerate(ids))
            assert text.logprob == pytest.approx(expected, abs=1e-4)
            assert text.mean_logprob == pytest.approx(expected / len(ids), abs=1e-4)
        ranks = [text.logprob / len(text.token_ids) ** 0.6 for text in texts]
        assert ranks == sorted(ranks, reverse=True)
        assert len({text.token_ids for text in texts}) == 3


def test_scores_are_given_only_where_asked_for(tokenizer):
    net = network("gpt2", tokenizer)
    for name in ("beam", "sampling"):
        found = run(net, tokenizer, DECODINGS[name], [0])[0][0]
        assert (found.logprob, found.mean_logprob) == (None, None)


def test_samples_depend_on_seed_key_question_and_number_alone(tokenizer):
    net = network("gpt2", tokenizer)
    features, prompt = some_features(1), [tokenizer("what").input_ids]
    decoding = Decoding(num_beams=1, max_new_tokens=12, do_sample=True, temperature=1.5, num_captions=1)

    def drawn(identity: Identity, settings: Decoding = decoding) -> str:
        return generate(net, features, prompt, settings, tokenizer, [identity])[0][0].text

    first = drawn(Identity("a", 1))
    torch.manual_seed(99)
    assert drawn(Identity("a", 1)) == first
    others = [drawn(Identity("b", 1)), drawn(Identity("a", 2)), drawn(Identity("a", 1), replace(decoding, seed=1))]
    assert first not in others
    several = generate(net, features, prompt, replace(decoding, num_captions=4), tokenizer, [Identity("a", 1)])[0]
    assert len({text.text for text in several}) == 4 and first in {text.text for text in several}


def test_sampling_leaves_the_global_generator_as_it_was(tokenizer):
    net = network("gpt2", tokenizer)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run(net, tokenizer, DECODINGS["sampling"], [0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_are_fixed_numbers_of_63_bits():
    # sha256 of '[0, "a", null, 0]': written down, so that texts sampled years ago can be had again
    assert derived_seed(0, Identity("a"), 0) == 8443416460076089915
    seeds = {derived_seed(seed, Identity(key, question), 0) for seed in (0, 1) for key in "ab" for question in (1, "1")}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)


def test_several_samples_come_best_first(tokenizer):
    net = network("llama", tokenizer, 2)
    decoding = replace(DECODINGS["sampling"], num_captions=5, temperature=1.5, with_scores=True)
    for texts in run(net, tokenizer, decoding, [0, 1, 2]):
        means = [text.mean_logprob for text in texts]
        assert means == sorted(means, reverse=True) and len(set(means)) > 1


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_texts_end_and_are_cut_wherever_they_begin(beams, tokenizer):
    stopped = 0
    for seed in range(6):
        net = network("gpt2", tokenizer, seed)
        free = run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=15), [0, 1, 2])
        decoding = Decoding(num_beams=beams, max_new_tokens=15, stop=("e", "ar"))
        found = run(net, tokenizer, decoding, [0, 1, 2])
        for text, whole in zip(found, free, strict=True):
            assert "e" not in text[0].text and "ar" not in text[0].text
            assert decode(tokenizer, text[0].token_ids).strip().startswith(text[0].text)
            if beams == 1:
                cut = min([place for stop in decoding.stop if (place := whole[0].text.find(stop)) >= 0], default=None)
                assert text[0].text == whole[0].text[:cut].strip()
                stopped += cut is not None
    assert beams == 3 or stopped >= 3


def test_a_stop_text_at_once_leaves_an_empty_text_with_no_score(tokenizer):
    net = network("gpt2", tokenizer)
    whole = run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=5), [1])[0][0]
    first = decode(tokenizer, whole.token_ids[:1])
    found = run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=5, stop=(first,), with_scores=True), [1])[0][0]
    assert found == Generated("", (), 0.0, 0.0)


@pytest.mark.parametrize("beams", [1, 3])
def test_lengths_are_kept(beams, tokenizer):
    for seed in range(4):
        net = network("gpt2", tokenizer, seed)
        for texts in run(net, tokenizer, Decoding(num_beams=beams, max_new_tokens=7, min_new_tokens=7), [0, 1, 2]):
            assert len(texts[0].token_ids) == 7 and tokenizer.eos_token_id not in texts[0].token_ids


def test_penalties_act_on_generated_tokens(tokenizer):
    repeated = 0
    for seed in range(6):
        net = network("gpt2", tokenizer, seed)
        for texts in run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=15), [0, 1, 2]):
            repeated += len(set(texts[0].token_ids)) < len(texts[0].token_ids)
        for texts in run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=15, no_repeat_ngram_size=1), [0, 1, 2]):
            assert len(set(texts[0].token_ids)) == len(texts[0].token_ids)
    assert repeated > 0


def test_what_the_models_own_generation_config_says_is_set_aside(tokenizer):
    net = network("gpt2", tokenizer)
    expected = run(net, tokenizer, DECODINGS["greedy"], [0, 1])
    net.language_model.generation_config = GenerationConfig(
        do_sample=True, num_beams=4, temperature=3.0, repetition_penalty=9.0, suppress_tokens=[1, 2, 3], max_length=3
    )
    assert run(net, tokenizer, DECODINGS["greedy"], [0, 1]) == expected


def test_a_prompt_near_the_end_of_the_positions_gets_fewer_tokens(tokenizer):
    net = network("gpt2", tokenizer)
    features = some_features(2)
    long, short = [5] * (64 - PREFIX - 3), [5]
    decoding = Decoding(num_beams=3, max_new_tokens=10, min_new_tokens=10)
    found = generate(net, features, [long, short], decoding, tokenizer, [Identity("a"), Identity("b")])
    assert [len(texts[0].token_ids) for texts in found] == [3, 10]
    with pytest.raises(DataError, match=r"b, question_id 7: prefix and prompt have 64 tokens.*64 positions"):
        generate(net, features, [short, [5] * 62], decoding, tokenizer, [Identity("a"), Identity("b", 7)])


def test_no_rows_are_no_texts(tokenizer):
    assert generate(network("gpt2", tokenizer), some_features(0), [], Decoding(), tokenizer, []) == []


def test_nothing_is_said_on_the_side(tokenizer, capfd):
    net = network("gpt2", tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for decoding in DECODINGS.values():
            run(net, tokenizer, decoding, [0, 3])
    assert capfd.readouterr() == ("", "")


def test_a_logit_that_is_no_number_names_its_row(tokenizer):
    net = network("gpt2", tokenizer)
    features = some_features(3)
    features.values[1] = torch.nan
    names = [Identity("a"), Identity("b", 7), Identity("c")]
    for decoding in DECODINGS.values():
        with pytest.raises(DataError, match=r"^b, question_id 7: .*a logit that is not a finite number, in float64"):
            generate(net, features, [[], [5, 6], []], decoding, tokenizer, names)


def test_a_logit_that_is_no_number_is_seen_at_later_tokens_too(tokenizer):
    net = network("gpt2", tokenizer)
    first = run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=1), [0])[0][0].token_ids[0]
    with torch.no_grad():
        net.language_model.get_output_embeddings().weight = torch.nn.Parameter(
            net.language_model.get_output_embeddings().weight.clone()
        )
        net.language_model.get_input_embeddings().weight[first] = torch.inf
    with pytest.raises(DataError, match=r"^image 0, question_id 0: .*not a finite number"):
        run(net, tokenizer, Decoding(num_beams=1, max_new_tokens=3), [0])


@pytest.mark.parametrize("beams", [1, 3])
def test_any_end_token_that_the_model_names_ends_a_text(beams, tokenizer):
    net = network("gpt2", tokenizer, 2)
    decoding = Decoding(num_beams=1, max_new_tokens=15)
    whole = run(net, tokenizer, decoding, [0])[0][0].token_ids
    end = whole[2]
    net.language_model.config.eos_token_id = [tokenizer.eos_token_id, end]
    found = run(net, tokenizer, replace(decoding, num_beams=beams), [0])[0][0].token_ids
    assert set(found[:-1]).isdisjoint({end, tokenizer.eos_token_id})
    if beams == 1:
        assert found == whole[: whole.index(end) + 1]
