"""Models that are run whole, against the same models called by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from git_caption.captioner import whole
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.whole import WholeCaptioner
from git_caption.decoding.generate import Identity
from git_caption.errors import DataError, WeightsError
from git_caption.params.decoding import DecodingParams
from tests.pretrained_models import FAMILIES, WHOLE

QUESTIONS = ["what is left of the star ?", "one green", "no"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model of each architecture with its processor."""
    made = {}
    for name, make in WHOLE.items():
        torch.manual_seed(4)
        made[name] = make(tmp_path_factory.mktemp(name) / name)
    return made


@pytest.fixture(scope="module")
def load(folders) -> Callable[[str], Any]:
    """The captioner of an architecture, loaded once."""
    loaded: dict[str, Captioner] = {}

    def of(name: str) -> Captioner:
        if name not in loaded:
            loaded[name] = Captioner.load(folders[name], device="cpu")
        return loaded[name]

    return of


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(60, 84), (33, 64), (84, 60)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def reference(name: str, folder: Path, image: Image.Image, prompt: str, beams: int) -> str:
    """One text of a model as its own documentation uses it."""
    model = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = hf.AutoProcessor.from_pretrained(folder)
    if processor.chat_template:
        asked = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": asked}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
    else:
        text = f"<image>{prompt}" if name == "llava_without_template" else prompt
        inputs = processor(images=image, text=text, return_tensors="pt")
    found = model.generate(**inputs, num_beams=beams, max_new_tokens=8, do_sample=False, early_stopping=beams > 1)[0]
    start = 1 if name == "florence2" else inputs["input_ids"].shape[1]
    return processor.tokenizer.decode(found[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", WHOLE)
def test_texts_are_those_of_the_model_called_by_itself(name, beams, folders, load, noise):
    captioner = load(name)
    assert isinstance(captioner, WholeCaptioner)
    prompts = [captioner.caption_prompt("a red"), *map(captioner.question_prompt, QUESTIONS[1:])]
    expected = [reference(name, folders[name], *row, beams) for row in zip(noise, prompts, strict=True)]
    found = captioner.caption(noise[:1], "a red", num_beams=beams, max_new_tokens=8)
    found += captioner.answer(noise[1:], QUESTIONS[1:], num_beams=beams, max_new_tokens=8)
    assert found == expected and len(set(found)) > 1


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "decoding",
    [
        {"num_beams": 3},
        {"temperature": 1.2, "top_k": 20},
        {"num_beams": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 1},
        {"num_beams": 2, "stop": ["e", "\x05"]},
    ],
    ids=["beams", "sampling", "penalties", "stop"],
)
def test_a_batch_gives_the_texts_its_rows_give_one_by_one(name, decoding, load, noise):
    captioner = load(name)
    images, questions = [*noise, noise[0]], [*QUESTIONS, QUESTIONS[0]]
    together = captioner.answer(images, questions, max_new_tokens=6, **decoding)
    rows = zip(images, questions, strict=True)
    assert together == [captioner.answer([i], [q], max_new_tokens=6, **decoding)[0] for i, q in rows]
    assert together[0] == together[3]


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "paligemma", "idefics3"])
def test_an_image_is_encoded_once_however_many_questions_it_has(name, load, noise, monkeypatch):
    captioner = load(name)
    calls = []
    encoder = captioner.encoder
    assert encoder is not None
    base: Any = captioner.network.model.base_model
    original = base.get_image_features
    monkeypatch.setattr(base, "get_image_features", lambda *a, **k: calls.append(1) or original(*a, **k))
    monkeypatch.setattr(captioner, "encoder", lambda *a, **k: calls.append(1) or encoder(*a, **k), raising=True)
    monkeypatch.setattr(whole, "_encoder_inputs", lambda _, inputs, of=whole._encoder_inputs: of(encoder, inputs))
    features = captioner.encode_many([captioner.transform(image) for image in noise], 8)
    assert len(calls) == 3
    decoding = captioner.decoding(DecodingParams(max_new_tokens=4), "answer")
    rows = torch.tensor([0, 0, 1, 1, 2])
    identities = [Identity(str(row)) for row in range(5)]
    questions = [*QUESTIONS, "no", "no"]
    prompts = [captioner.question_prompt(question) for question in questions]
    shared = captioner.generate(features.select(rows), prompts, decoding, identities)
    assert len(calls) == 3
    expected = captioner.answer([noise[row] for row in rows.tolist()], questions, max_new_tokens=4)
    assert [texts[0].text for texts in shared] == expected


def test_a_model_that_takes_no_features_is_given_its_pixels_each_time(folders, load, noise, monkeypatch):
    monkeypatch.setattr(whole, "ENCODED_AGAIN", {"llava"})
    captioner: Any = Captioner.load(folders["llava"], device="cpu")
    assert captioner.encoder is None and load("llava").encoder is not None
    assert captioner.answer(noise, QUESTIONS) == load("llava").answer(noise, QUESTIONS)
    assert load("instructblip").encoder is None, "its encoder reads the question too"


def test_scores_are_those_of_the_plain_model(load, folders, noise):
    captioner = load("llava_without_template")
    model = hf.AutoModelForImageTextToText.from_pretrained(folders["llava_without_template"]).eval()
    processor = hf.AutoProcessor.from_pretrained(folders["llava_without_template"])
    for params in (
        DecodingParams(num_beams=3, num_captions=2, with_scores=True, max_new_tokens=6, repetition_penalty=1.3),
        DecodingParams(temperature=1.5, num_captions=3, with_scores=True, max_new_tokens=6),
    ):
        features = captioner.encode_many([captioner.transform(noise[0])], 1)
        decoding = captioner.decoding(params, "caption")
        texts = captioner.generate(features, ["a red"], decoding, [Identity("a")])[0]
        assert len(texts) == params.num_captions
        for text in texts:
            inputs = processor(images=noise[0], text="<image>a red", return_tensors="pt")
            start = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([text.token_ids])], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.no_grad():
                logits = model(**inputs).logits[0].log_softmax(-1)
            places = range(start - 1, start - 1 + len(text.token_ids))
            expected = sum(float(logits[place, token]) for place, token in zip(places, text.token_ids, strict=True))
            assert text.logprob == pytest.approx(expected, abs=1e-4)
        means = [text.mean_logprob for text in texts]
        assert params.temperature is None or means == sorted(means, reverse=True)


@pytest.mark.parametrize("name", ["llava", "florence2"])
def test_answers_may_be_one_of_a_file(name, load, noise, tmp_path):
    captioner = load(name)
    allowed = ["yes", "no", "one green", "two small squares"]
    (tmp_path / "answers.txt").write_text("\n".join(allowed))
    keys = {"allowed_texts": str(tmp_path / "answers.txt"), "num_beams": 4, "num_captions": 4, "with_scores": True}
    features = captioner.encode_many([captioner.transform(image) for image in noise], 3)
    identities = [Identity(str(number)) for number in range(3)]
    found = captioner.generate(features, QUESTIONS, captioner.decoding(DecodingParams(**keys), "answer"), identities)
    for texts in found:
        assert {text.text for text in texts} == set(allowed)
        assert [text.logprob for text in texts] == sorted((text.logprob for text in texts), reverse=True)
    greedy = captioner.answer(noise, QUESTIONS, allowed_texts=keys["allowed_texts"], num_beams=1)
    assert set(greedy) <= set(allowed)


def test_stop_texts_are_cut_off(load, noise):
    captioner = load("llava")
    free = captioner.caption(noise, num_beams=1, max_new_tokens=8)
    stop = free[0][2]
    found = captioner.caption(noise, num_beams=1, max_new_tokens=8, stop=[stop])
    assert found == [text.partition(stop)[0].strip() for text in free]


def test_a_video_is_several_images_in_one_prompt(load, noise):
    captioner = load("llava")
    frames = [noise[0], noise[0].rotate(180)]
    assert captioner.caption([frames])[0] != captioner.caption([frames[0]])[0]
    assert captioner.caption([frames, noise[1]]) == [captioner.caption([frames])[0], captioner.caption([noise[1]])[0]]
    with pytest.raises(DataError, match="the frames of a video differ in shape"):
        captioner.caption([noise])


def test_a_huge_picture_is_scaled_down_first(load):
    captioner = load("llava")
    assert captioner.pixels(Image.new("RGB", (4096, 100))).shape == (1, 3, 50, 2048)
    assert captioner.pixels(Image.new("RGB", (2048, 100))).shape == (1, 3, 100, 2048)


def test_a_prompt_too_long_for_the_model_is_named(load, noise):
    with pytest.raises(DataError, match=r"image 0: prefix and prompt have \d+ tokens, .* model 96 positions"):
        load("llava").caption(noise[:1], "very " * 100)


def test_an_allowed_text_too_long_for_the_model_is_named(load, noise, tmp_path):
    (tmp_path / "answers.txt").write_text("yes\n" + "very " * 95)
    with pytest.raises(DataError, match=r"an allowed text of \d+ tokens cannot follow"):
        load("llava").answer(noise[:1], ["what"], allowed_texts=str(tmp_path / "answers.txt"))


@pytest.mark.parametrize(
    "decoding", [{"temperature": 0.0}, {"num_beams": 3}, {"temperature": 1.0, "num_captions": 2}], ids=str
)
def test_logits_that_are_no_numbers_name_the_row(decoding, folders, noise):
    captioner: Any = Captioner.load(folders["llava"], device="cpu")
    head = captioner.model.lm_head.forward

    def only_the_second(rows: torch.Tensor) -> torch.Tensor:
        logits = head(rows).clone()
        logits[len(logits) // 2 :] = torch.nan
        return logits

    captioner.model.lm_head.forward = only_the_second
    features = captioner.encode_many([captioner.transform(noise[0])] * 2, 2)
    settled = captioner.decoding(DecodingParams(**decoding), "caption")
    named = "first" if settled.do_sample else "second"  # sampled rows go one by one
    with pytest.raises(DataError, match=rf"^{named}: the language model gives a logit that is not a finite number"):
        captioner.generate(features, ["what", "what"], settled, [Identity("first"), Identity("second")])


def test_chat_models_are_asked_for_a_description(load):
    assert load("llava").caption_prompt() == "Describe the image in one short sentence."
    assert load("llava_without_template").caption_prompt() == ""
    assert load("paligemma").caption_prompt() == "caption en"
    assert load("paligemma").question_prompt("what?") == "answer en what?"


def test_a_folder_without_a_processor_says_so(folders, tmp_path):
    for path in folders["llava"].iterdir():
        if "processor" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match="the folder lacks preprocessor_config"):
        Captioner.load(tmp_path, device="cpu")


@pytest.mark.parametrize("described", ["5", "[]", "{bad", '{"image_processor_type": 5}', '{"processor_class": ["a"]}'])
@pytest.mark.parametrize("name", ["blip", "llava"])
def test_damaged_descriptions_of_a_processor_are_one_line(name, described, folders, tmp_path):
    made = folders[name] if name in folders else FAMILIES[name](tmp_path / "whole")
    shutil.copytree(made, tmp_path / "damaged")
    for path in (tmp_path / "damaged").glob("*processor_config.json"):
        path.write_text(described)
    with pytest.raises(WeightsError, match=r"^\S+damaged: no loadable (image )?processor \(\w+.json\): [^\n]+$"):
        Captioner.load(tmp_path / "damaged", device="cpu")


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_the_text_part_is_quantized_and_nothing_else(name, folders, noise):
    pytest.importorskip("bitsandbytes")
    captioner: Any = Captioner.load(folders[name], device="cpu", quantization="8bit")
    names = [key for key, module in captioner.model.named_modules() if type(module).__name__ == "Linear8bitLt"]
    assert names and all("language_model" in key or "text_model" in key for key in names)
    assert "lm_head" not in names
    assert len(captioner.caption(noise, max_new_tokens=3)) == 3
