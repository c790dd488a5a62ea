from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_caption.errors import UsageError, WeightsError
from git_caption.text.tokenizer import decode, encode_prompt, end_token_ids, load_tokenizer, train_bpe
from tests.language_families import FAMILIES

TEXTS = ["a red circle above a blue square", "what is the colour of the big triangle?", "two small stars"] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, 300, tmp_path_factory.mktemp("bpe"))


def write_gpt2(folder, with_bos=False):
    """GPT-2's kind of folder, the size of a byte alphabet, with OPT's rule of a token in front if asked."""
    train_bpe(TEXTS, 270, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    written = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if with_bos:
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(written))


def write_llama(folder, settings):
    """LLaMA's kind of folder: a sentencepiece model and settings beside it."""
    write_sentencepiece(folder / "tokenizer", "bpe", "llama", settings)


def write_sentencepiece(prefix, kind, model_type, settings):
    """The file PREFIX.model, and settings beside it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(prefix),
        vocab_size=60,
        model_type=kind,
        minloglevel=2,
        hard_vocab_limit=False,
        pad_id=-1,
    )
    (prefix.parent / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 60}))
    (prefix.parent / "tokenizer_config.json").write_text(json.dumps(settings))


# --- training


def test_training_twice_gives_the_same_files(tmp_path):
    for name in ("first", "second"):
        train_bpe(iter(TEXTS), 300, tmp_path / name)

    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_trained_tokenizer_learns_words_and_has_one_special_token(tokenizer):
    assert len(tokenizer) == 300
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert encode_prompt(tokenizer, "") == []
    assert 1 < len(encode_prompt(tokenizer, "a red circle")) < 8
    assert tokenizer.all_special_ids == [0]


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(tokenizer, text):
    if "<|endoftext|>" not in text:
        assert decode(tokenizer, encode_prompt(tokenizer, text)) == text


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path):
    with pytest.raises(UsageError, match="vocab_size 256 is too small: a byte-level vocabulary has 257 at least"):
        train_bpe(TEXTS, 256, tmp_path)
    assert len(train_bpe(TEXTS, 257, tmp_path)) == 257


# --- loading


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    write_gpt2(tmp_path)

    tokenizer = load_tokenizer(tmp_path)

    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert encode_prompt(tokenizer, "") == []


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
        # as decapoda-research/llama-7b-hf was published
        {"tokenizer_class": "LLaMATokenizer", "bos_token": "", "eos_token": "", "unk_token": ""},
    ],
)
def test_llama_folders_old_and_new_are_read(tmp_path, settings):
    write_llama(tmp_path, settings)

    tokenizer = load_tokenizer(tmp_path)

    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert encode_prompt(tokenizer, "") == [1]
    ids = encode_prompt(tokenizer, "what is the colour")
    assert (ids[0], ids.count(1)) == (1, 1)
    assert decode(tokenizer, ids) == "what is the colour"


def test_a_sentencepiece_model_alone_is_read_or_refused(tmp_path):
    prefix = tmp_path / "sentencepiece.bpe"
    write_sentencepiece(prefix, "unigram", "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"})
    tokenizer = load_tokenizer(tmp_path)
    assert decode(tokenizer, encode_prompt(tokenizer, "what is the colour")) == "what is the colour"

    # transformers reads this one from tokenizer.json only, and says nothing where there is none
    write_sentencepiece(prefix, "unigram", "xglm", {"tokenizer_class": "XGLMTokenizer"})
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: the vocabulary of XGLMTokenizer is empty.*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_folders_without_a_usable_tokenizer_are_named(tmp_path):
    with pytest.raises(WeightsError, match=rf"{tmp_path}: no loadable tokenizer, expected tokenizer\.json, "):
        load_tokenizer(tmp_path)
    write_gpt2(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(WeightsError, match=r"the tokenizer has no end token \(eos_token\)"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json: not readable JSON: "):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json: holds a list, expected an object"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": 5}'),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "5"),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "Other"}}'),
    ],
)
def test_a_tokenizer_with_wrong_settings_is_named(name, content, tmp_path):
    write_gpt2(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: no loadable tokenizer, expected ") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_code_beside_a_tokenizer_is_not_run(tmp_path):
    write_gpt2(tmp_path)
    written = {"auto_map": {"AutoTokenizer": ["thing.T", None]}, "tokenizer_class": "T", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written))
    (tmp_path / "thing.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")

    # refused, or read as the plain tokenizer its files are: either way without the code
    try:
        load_tokenizer(tmp_path)
    except WeightsError as error:
        assert "no loadable tokenizer" in str(error)
    assert not (tmp_path / "made").exists()


# --- prompts


def test_a_prompt_has_the_token_that_is_put_in_front(tmp_path):
    write_gpt2(tmp_path, with_bos=True)
    tokenizer = load_tokenizer(tmp_path)

    ids = encode_prompt(tokenizer, TEXTS[1])

    assert encode_prompt(tokenizer, "") == [0]
    assert ids[0] == 0 and 0 not in ids[1:]


def test_special_tokens_are_left_out_and_spaces_stay(tokenizer):
    ids = encode_prompt(tokenizer, " two  stars .")

    assert decode(tokenizer, [0, *ids, 0]) == " two  stars ."


# --- families

EACH = pytest.mark.parametrize("family", FAMILIES)


def tokens(tokenizer, ids):
    return tuple(tokenizer.convert_ids_to_tokens(list(ids)))


@EACH
def test_every_family_pads_and_begins_as_published(family, published, tmp_path):
    tokenizer = load_tokenizer(published(family))
    tokenizer.save_pretrained(tmp_path)

    for one in (tokenizer, load_tokenizer(tmp_path)):  # a checkpoint keeps it so
        assert one.pad_token == FAMILIES[family].padding
        assert tokens(one, encode_prompt(one, "")) == FAMILIES[family].in_front
        ids = encode_prompt(one, "what is left?")
        assert tokens(one, ids[: len(FAMILIES[family].in_front)]) == FAMILIES[family].in_front
        assert not set(ids[len(FAMILIES[family].in_front) :]) & set(one.all_special_ids)


@EACH
def test_texts_of_every_family_come_back_with_their_spaces(family, published):
    tokenizer = load_tokenizer(published(family))

    for text in ("a red  circle", " left of it", "naïve 星 é", "two\nlines "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert decode(tokenizer, [*ids, tokenizer.eos_token_id, tokenizer.pad_token_id]).strip() == text.strip()
    # generated in pieces, a text has its spaces where it had them
    ids = tokenizer(" red circle", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, encode_prompt(tokenizer, "a") + ids) == "a red circle"


# --- ends


def model_with(eos, vocab_size=60):
    text = SimpleNamespace(vocab_size=vocab_size)
    return SimpleNamespace(config=SimpleNamespace(eos_token_id=eos, get_text_config=lambda: text))


def test_the_tokenizers_end_comes_first_and_each_once(published):
    tokenizer = load_tokenizer(published("qwen2"))  # ends with id 2

    assert end_token_ids(tokenizer, model_with([0, 2, 5])) == (2, 0, 5)
    assert end_token_ids(tokenizer, model_with(0)) == (2, 0)
    assert end_token_ids(tokenizer, model_with(None)) == (2,)


def test_ids_that_no_token_has_and_the_begin_token_end_nothing(tmp_path):
    write_llama(tmp_path, {"tokenizer_class": "LLaMATokenizer", "bos_token": "", "eos_token": "", "unk_token": ""})
    tokenizer = load_tokenizer(tmp_path)

    # as decapoda-research/llama-7b-hf says in its configs; 1 begins
    assert end_token_ids(tokenizer, model_with(1)) == (2,)
    assert end_token_ids(tokenizer, model_with([2, 59, 60, 50256])) == (2, 59)
