"""Captioners with cross-attention: their texts, and how they are stored and loaded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from git_caption.captioner.captioner import Captioner, Identity
from git_caption.captioner.feature_origin import feature_origin
from git_caption.errors import UsageError, WeightsError
from git_caption.model.git import TextBatch
from git_caption.params.decoding import DecodingParams
from git_caption.params.infer import ModelParams
from tests.small_captioner import adapted, looking_captioner

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
QUESTIONS = ["what is left of the star?", "red", "two small squares?", "yes"]


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8))
        for number in range(4)
    ]


@pytest.mark.parametrize(
    "decoding",
    [{"num_beams": 3}, {"temperature": 0.0}, {"temperature": 1.0, "seed": 2}],
    ids=["beams", "greedy", "drawn"],
)
@FAMILIES
def test_texts_depend_neither_on_the_batch_nor_on_the_place(family, decoding, pictures, tmp_path):
    captioner = looking_captioner(tmp_path, family)
    captions = captioner.caption(pictures, **decoding)
    answers = captioner.answer(pictures, QUESTIONS, **decoding)
    assert len(set(captions)) == 4
    assert captioner.caption(pictures[::-1], batch_size=3, **decoding) == captions[::-1]
    assert [
        captioner.answer([picture], [asked], **decoding)[0] for picture, asked in zip(pictures, QUESTIONS, strict=True)
    ] == answers
    assert captioner.answer(pictures[:1] * 4, QUESTIONS, **decoding)[1:] != answers[1:]  # it is the image that differs


@FAMILIES
@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_is_generated_has_the_probability_that_training_gives_it(family, num_beams, pictures, tmp_path):
    captioner = looking_captioner(tmp_path, family)
    features = captioner.encode_many([captioner.pixels(picture)[0] for picture in pictures], 4)
    decoding = captioner.decoding(DecodingParams(num_beams=num_beams, with_scores=True), "caption")
    prompts = ["", *map(captioner.question_prompt, QUESTIONS[1:])]
    found = captioner.generate(features, prompts, decoding, [Identity(str(number)) for number in range(4)])
    texts = TextBatch(
        [captioner.prompt_ids(prompt) for prompt in prompts], [list(texts[0].token_ids) for texts in found]
    )
    with torch.no_grad():
        trained = captioner.network.token_logprobs(features, texts).sum(1)
    assert [texts[0].logprob for texts in found] == pytest.approx(trained.tolist(), abs=2e-4)


def test_a_checkpoint_holds_the_new_layers_and_loads_exactly(pictures, tmp_path):
    captioner = looking_captioner(tmp_path / "gpt2")
    captioner.save(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"cross_attention", "image_encoder"}
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["fusion"], config["mapper"]) == ("cross_attention", None)
    assert config["cross_attention"] == {"blocks": [0, 1], "heads": 2, "start_token": 0}

    loaded = Captioner.load(tmp_path / "saved", device="cpu")
    assert loaded.caption(pictures) == captioner.caption(pictures)
    spread = Captioner.load(tmp_path / "saved", device="cpu", device_map={"": "cpu"})
    assert spread.caption(pictures) == captioner.caption(pictures)

    stored["cross_attention.layers.7.gate"] = stored.pop("cross_attention.layers.1.gate")
    save_file(stored, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing .*layers\.1\.gate.*unexpected .*layers\.7\.gate"):
        Captioner.load(tmp_path / "saved", device="cpu")


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_the_language_model_may_be_in_fewer_bits(bits, pictures, tmp_path):
    pytest.importorskip("bitsandbytes")
    looking_captioner(tmp_path / "llama", "llama").save(tmp_path / "saved")
    captioner = Captioner.load(tmp_path / "saved", device="cpu", quantization=bits)
    assert len(set(captioner.caption(pictures))) > 1


def test_a_language_model_that_is_stored_is_quantized_under_its_layers(pictures, tmp_path):
    pytest.importorskip("bitsandbytes")
    captioner = looking_captioner(tmp_path / "llama", "llama")
    config, network = captioner.own_parts()
    own = replace(config, language_model=replace(config.language_model, weights=None))
    Captioner(own, network, captioner.tokenizer).save(tmp_path / "stored")
    captioner.save(tmp_path / "referred")
    told = {"device": "cpu", "quantization": "8bit"}
    texts = [Captioner.load(tmp_path / name, **told).caption(pictures) for name in ("stored", "referred")]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_lora_stands_beside_the_layers(pictures, tmp_path):
    pytest.importorskip("peft")
    captioner = adapted(looking_captioner(tmp_path / "gpt2"))
    captioner.save(tmp_path / "saved")
    assert Captioner.load(tmp_path / "saved", device="cpu").caption(pictures) == captioner.caption(pictures)


def test_videos_and_pooled_features_are_looked_at(pictures, tmp_path):
    grid, pooled = looking_captioner(tmp_path), looking_captioner(tmp_path, output="pooled")
    for captioner in (grid, pooled):
        found = captioner.caption([pictures, pictures[0]])
        assert found[1] == captioner.caption(pictures[:1])[0] != found[0]


def test_there_are_features_and_no_prefixes(tmp_path):
    captioner = looking_captioner(tmp_path / "gpt2")
    captioner.save(tmp_path / "saved")
    model = ModelParams(model_path=str(tmp_path / "saved"))
    assert feature_origin(captioner.config, model).mapper is None
    with pytest.raises(UsageError, match="cross-attention has no mapper to make a prefix: expected features"):
        feature_origin(captioner.config, model, "prefix")


def test_a_mapper_is_not_what_it_has(tmp_path):
    looking_captioner(tmp_path / "gpt2").save(tmp_path / "saved")
    with pytest.raises(UsageError, match="mapping_type 'mlp' was given and the checkpoint has None"):
        Captioner.load(tmp_path / "saved", mapping_type="mlp", device="cpu")
