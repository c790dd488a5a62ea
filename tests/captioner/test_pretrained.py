"""Pretrained captioners against transformers' own models called by themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file

from git_caption.captioner import hub
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.pretrained import PretrainedCaptioner
from git_caption.decoding.generate import Identity
from git_caption.errors import DataError, UsageError, WeightsError
from git_caption.params.decoding import DecodingParams
from git_caption.params.pretrained import GIT_MODELS
from tests import hub_cache
from tests.pretrained_models import FAMILIES, git, git_video, llava

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ["what is left of the star ?", "one green", "no"]
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "beams": {"num_beams": 3},
    "sampling": {"temperature": 1.2, "top_p": 0.9, "seed": 4},
    "penalties": {"num_beams": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "lengths": {"num_beams": 3, "min_new_tokens": 5, "length_penalty": 0.5},
    "stop": {"num_beams": 3, "stop": ["e", "s"]},
}


class Reference:
    """A model as its own documentation uses it: one image, one prompt, its own `generate`."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family = family
        self.images = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        kinds = {"blip_answering": hf.BlipForQuestionAnswering, "git": hf.AutoModelForCausalLM}
        kind: Any = kinds.get(family, hf.AutoModelForImageTextToText)
        self.model = kind.from_pretrained(folder).eval()

    def text(self, image: Image.Image, prompt: str, beams: int) -> str:
        settings = {"num_beams": beams, "max_new_tokens": 8, "do_sample": False, "early_stopping": beams > 1}
        pixels = self.images(image, return_tensors="pt").pixel_values
        given = self.prompt(prompt) if prompt else {}
        found = self.model.generate(pixel_values=pixels, **given, **settings)[0]
        return self.tokenizer.decode(found[self.start(given) :], skip_special_tokens=True).strip()

    def prompt(self, text: str) -> dict[str, torch.Tensor]:
        plain = self.tokenizer(text, add_special_tokens=False).input_ids
        if self.family == "git":
            return {"input_ids": torch.tensor([[self.tokenizer.cls_token_id, *plain]])}
        if self.family.startswith("vit"):
            return {"decoder_input_ids": torch.tensor([[self.model.config.decoder_start_token_id, *plain]])}
        if self.family.startswith("blip2"):
            images = [self.model.config.image_token_id] * self.model.config.num_query_tokens
            return {"input_ids": torch.tensor([images + self.tokenizer(text).input_ids])}
        return dict(self.tokenizer(text, return_tensors="pt", return_token_type_ids=False))

    def start(self, given: dict[str, torch.Tensor]) -> int:
        """Where generated tokens begin in what `generate` gives, which holds the prompt where a decoder reads it."""
        if self.family in ("blip_answering", "blip2_seq2seq"):
            return 1
        length = next(iter(given.values())).shape[1] if given else 1
        if self.family == "blip":
            return length - 1 if given else 1  # without the [SEP] that its processor puts behind a prompt
        return length + self.model.config.num_query_tokens if self.family == "blip2" and not given else length


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model of each family with its processor."""
    made = {}
    for name, make in FAMILIES.items():
        torch.manual_seed(3)
        made[name] = make(tmp_path_factory.mktemp(name) / name)
    return made


@pytest.fixture(scope="module")
def load(folders) -> Callable[[str], Captioner]:
    """The captioner of a family, loaded once."""
    loaded: dict[str, Captioner] = {}

    def of(family: str) -> Captioner:
        if family not in loaded:
            loaded[family] = Captioner.load(folders[family], device="cpu")
        return loaded[family]

    return of


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    """Three pictures that differ in everything, in sizes that are scaled and cropped differently."""
    random = np.random.default_rng(0)
    sizes = [(40, 52), (33, 64), (71, 48)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_the_model_called_by_itself(family, beams, folders, load, noise):
    reference, captioner = Reference(family, folders[family]), load(family)
    if family != "blip_answering":  # it takes questions only
        expected = [reference.text(image, "", beams) for image in noise]
        assert captioner.caption(noise, num_beams=beams, max_new_tokens=8) == expected
        assert len(set(expected)) > 1, "the texts must differ from image to image, or the test shows nothing"
    asked = [captioner.question_prompt(question) for question in QUESTIONS]
    expected = [reference.text(*row, beams) for row in zip(noise, asked, strict=True)]
    assert captioner.answer(noise, QUESTIONS, num_beams=beams, max_new_tokens=8) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS.keys())
def test_a_batch_gives_the_texts_its_rows_give_one_by_one(family, decoding, load, noise):
    captioner = load(family)
    images, questions = [*noise, noise[0]], [*QUESTIONS, "what is left of the star ? two small squares"]
    together = captioner.answer(images, questions, max_new_tokens=8, **decoding)
    alone = [
        captioner.answer([image], [question], max_new_tokens=8, **decoding)[0]
        for image, question in zip(images, questions, strict=True)
    ]
    assert together == alone
    assert captioner.answer(images[::-1], questions[::-1], max_new_tokens=8, **decoding) == alone[::-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_several_captions_come_best_first_with_the_models_own_scores(family, load, noise):
    captioner = load(family)
    params = DecodingParams(num_beams=3, num_captions=2, with_scores=True, max_new_tokens=6, length_penalty=0.0)
    features = captioner.encode(np.stack([captioner.transform(image) for image in noise]))
    identities = [Identity(str(number)) for number in range(3)]
    rows = captioner.generate(features, QUESTIONS, captioner.decoding(params, "caption"), identities)
    for number, texts in enumerate(rows):
        assert len({text.token_ids for text in texts}) == 2
        assert texts[0].logprob >= texts[1].logprob
        for text in texts:
            assert text.logprob == pytest.approx(step_by_step(captioner, features, number, text.token_ids), abs=1e-4)
            assert text.mean_logprob == pytest.approx(text.logprob / len(text.token_ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_may_be_one_of_a_file(family, load, noise, tmp_path):
    captioner = load(family)
    allowed = ["yes", "no", "one green", "two small squares"]
    (tmp_path / "answers.txt").write_text("\n".join(allowed))
    keys = {"allowed_texts": str(tmp_path / "answers.txt"), "num_beams": 4, "num_captions": 4, "with_scores": True}
    decoding = captioner.decoding(DecodingParams(**keys), "answer")
    features = captioner.encode(np.stack([captioner.transform(image) for image in noise]))
    for number, texts in enumerate(captioner.generate(features, QUESTIONS, decoding, [Identity("a")] * 3)):
        assert {text.text for text in texts} == set(allowed)
        for text in texts:
            assert text.logprob == pytest.approx(step_by_step(captioner, features, number, text.token_ids), abs=1e-4)
        assert [text.logprob for text in texts] == sorted((text.logprob for text in texts), reverse=True)


@torch.inference_mode()
def step_by_step(captioner: Captioner, features: Any, row: int, tokens: tuple[int, ...]) -> float:
    """The log-probability of tokens, each from a pass of its own without a cache."""
    network: Any = captioner.network
    inputs = network.language_inputs(features.select(torch.tensor([row])), [captioner.prompt_ids(QUESTIONS[row])])
    total = 0.0
    for token in tokens:
        total += float(network.language_model(**inputs, use_cache=False).logits[0, -1].log_softmax(-1)[token])
        following = torch.tensor([[token]])
        if "inputs_embeds" in inputs:
            embedded = network.language_model.get_input_embeddings()(following)
            inputs["inputs_embeds"] = torch.cat([inputs["inputs_embeds"], embedded], dim=1)
        else:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], following], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(1, 1).long()], dim=1)
    return total


def test_git_marks_the_frames_of_a_video(tmp_path, noise):
    torch.manual_seed(2)
    folder = git_video(tmp_path / "git")
    captioner = Captioner.load(folder, device="cpu")
    images = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    pixels = torch.stack([images(image, return_tensors="pt").pixel_values[0] for image in noise])
    model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    found = model.generate(pixel_values=pixels[None], max_new_tokens=8, do_sample=False)[0]
    expected = tokenizer.decode(found[1:], skip_special_tokens=True).strip()
    assert captioner.caption([noise], num_beams=1, max_new_tokens=8) == [expected]
    shuffled = captioner.caption([noise[::-1], noise[:2], noise], num_beams=1, max_new_tokens=8)
    assert expected and shuffled[2] == expected and shuffled[0] != expected
    with pytest.raises(DataError, match="a video of 4 frames: the model was trained on 3 frames at most"):
        captioner.caption([[*noise, noise[0]]])


@pytest.mark.parametrize("family", FAMILIES)
def test_videos_of_different_lengths_in_a_batch(family, load, noise):
    captioner = load(family)
    videos = [noise[:2], noise[0], noise]
    together = captioner.answer(videos, ["no"] * 3, max_new_tokens=6)
    assert together == [captioner.answer([video], ["no"], max_new_tokens=6)[0] for video in videos]


def test_blip2_asks_in_the_words_it_was_trained_with(load):
    assert load("blip2").question_prompt("how many?") == "Question: how many? Answer:"
    assert load("git").question_prompt("how many?") == "how many?"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["blip", "blip2", "git", "vit_gpt2"])
def test_other_precisions(family, dtype, folders, noise):
    captioner = Captioner.load(folders[family], device="cpu", dtype=dtype)
    assert captioner.network.dtype == getattr(torch, dtype)
    assert len(captioner.caption(noise, max_new_tokens=4)) == 3


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_part_is_quantized_and_nothing_else(family, quantization, folders, noise):
    pytest.importorskip("bitsandbytes")
    captioner = Captioner.load(folders[family], device="cpu", quantization=quantization)
    kind = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization]
    network: Any = captioner.network
    names = [name for name, module in network.model.named_modules() if type(module).__name__ == kind]
    parts = ("text_decoder.bert", "text_encoder", "language_model", "git.encoder", "decoder.")
    assert names and all(name.startswith(parts) for name in names)
    assert not any("lm_head" in name or "predictions" in name for name in names)
    assert captioner.config.quantization == quantization
    assert len(captioner.answer(noise, QUESTIONS, max_new_tokens=4)) == 3


def test_tensors_that_are_missing_or_unexpected_are_listed_together(folders, tmp_path):
    shutil.copytree(folders["git"], tmp_path / "git")
    tensors = load_file(tmp_path / "git" / "model.safetensors")
    tensors["git.more.weight"] = tensors.pop("git.visual_projection.visual_projection.0.weight")
    tensors["output.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "git" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as refused:
        Captioner.load(tmp_path / "git")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'git'} does not fit the git captioner: 1 missing (git.visual_projection.")
    assert "1 unexpected (git.more.weight)" in message and "1 misshapen (output.bias is (3,), expected" in message


def test_tensors_that_old_repositories_have_or_lack_make_no_difference(folders, load, noise, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["vit_gpt2"], folder)
    tensors = load_file(folder / "model.safetensors")
    pooler = [name for name in tensors if ".pooler." in name]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in pooler}
    for layer in range(2):
        for attention in ("attn", "crossattention"):
            tensors[f"decoder.transformer.h.{layer}.{attention}.bias"] = torch.ones(1, 1, 48, 48)
            tensors[f"decoder.transformer.h.{layer}.{attention}.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert pooler and Captioner.load(folder, device="cpu").caption(noise) == load("vit_gpt2").caption(noise)


def test_folders_that_lack_something_say_what(folders, language_models, tmp_path):
    with pytest.raises(WeightsError, match=r"gpt2': its config.json is not a captioner's \(model_type 'gpt2'\)"):
        Captioner.load(language_models["gpt2"])
    lacking = {
        "processor_config.json": "lacks preprocessor_config.json or processor_config.json",
        "model.safetensors": "lacks model.safetensors or pytorch_model.bin",
    }
    for file, said in lacking.items():
        folder = tmp_path / file
        shutil.copytree(folders["blip"], folder)
        (folder / file).unlink()
        with pytest.raises(WeightsError, match=said):
            Captioner.load(folder)
    with pytest.raises(UsageError, match=r"language_model 'gpt2', output_grid True given, but a pretrained captioner"):
        Captioner.load(folders["blip"], language_model="gpt2", output_grid=True)


def test_a_decoder_without_an_end_token_is_refused(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["vit_bert"], folder)
    (folder / "generation_config.json").write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    config |= {"eos_token_id": None, "decoder": config["decoder"] | {"eos_token_id": None}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"the decoder has no end token: expected decoder_start_token_id and eos"):
        Captioner.load(folder)


def test_code_in_a_repository_is_not_run(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["git"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(WeightsError, match=r"not a captioner's \(model_type 'mine'\)"):
        Captioner.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_repository_in_the_cache_is_enough(folders, load, noise, hub_home):
    folder = hub_cache.snapshot(hub_home, GIT_MODELS["GIT_BASE_COCO"], folders["git"])
    assert hub.fetch("GIT_BASE_COCO") == folder
    captioner = Captioner.load("microsoft/git-base-coco", device="cpu")
    assert isinstance(captioner, PretrainedCaptioner)
    assert captioner.caption(noise) == load("git").caption(noise)
    with pytest.raises(WeightsError, match=r"microsoft/git-large: .*'prefetch', 'ids': \['microsoft/git-large'\]"):
        Captioner.load("microsoft/git-large")


def test_a_pretrained_captioner_is_neither_saved_nor_taken_apart(load, tmp_path):
    with pytest.raises(UsageError, match="a pretrained captioner is a folder that is whole as it is: copy that"):
        load("blip").save(tmp_path / "saved")
    with pytest.raises(UsageError, match="a pretrained captioner is not taken apart nor saved"):
        load("blip").own_parts()
    assert not (tmp_path / "saved").exists()


def test_nothing_is_said_on_the_side(folders, noise, tmp_path):
    path = tmp_path / "noise.png"
    noise[0].save(path)
    models = [folders["blip"], folders["blip2"], folders["git"], folders["vit_gpt2"], llava(tmp_path / "llava")]
    code = (
        "import sys, git_caption\n"
        "for folder in sys.argv[2:]:\n"
        "    captioner = git_caption.Captioner.load(folder)\n"
        "    captioner.answer([sys.argv[1]], ['what?'], repetition_penalty=1.2, no_repeat_ngram_size=2)\n"
        "    captioner.caption([sys.argv[1]], temperature=0.7, stop=['e'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), *map(str, models)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_fingerprint_is_of_all_that_can_change_a_text(folders, load, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(folders["git"], copied)
    assert Captioner.load(copied).fingerprint == Captioner.load(copied).fingerprint
    first = Captioner.load(copied).fingerprint
    processor = json.loads((copied / "processor_config.json").read_text())
    processor["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (copied / "processor_config.json").write_text(json.dumps(processor))
    assert Captioner.load(copied).fingerprint != first
    torch.manual_seed(9)
    assert Captioner.load(git(tmp_path / "other")).fingerprint != first
