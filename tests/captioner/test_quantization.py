"""Language models in 8 and 4 bits: quantized once, kept and loaded again bit for bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError, WeightsError
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features
from git_caption.params.model import WeightsSource
from tests.language_families import FAMILIES
from tests.small_captioner import small_captioner

pytest.importorskip("bitsandbytes")

FAMILY = pytest.mark.parametrize("family", FAMILIES)
BITS = pytest.mark.parametrize("bits", ["8bit", "4bit"])
LAYERS = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}
IDS = torch.tensor([[5, 6, 7, 8, 9]])
CLOSE = {"atol": 1e-5, "rtol": 0}  # the activation of ours is computed in one pass; quantized twice they are 1e-2 off


def logprobs(captioner: Captioner) -> torch.Tensor:
    """Of some texts about three random images."""
    torch.manual_seed(5)
    features = Features(torch.randn(3, 1, 12), torch.ones(3, 1, dtype=torch.bool))
    batch = TextBatch([[5], [], [6, 7]], [[8, 9], [10], [11, 12, 13]])
    return captioner.network.token_logprobs(features, batch)


def transformers_own(folder, bits: str, dtype: torch.dtype = torch.float32):
    """The model of a folder as transformers quantizes it, with the settings of ours."""
    settings = {"load_in_8bit": True}
    if bits == "4bit":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    quantization = BitsAndBytesConfig(**settings)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=quantization, device_map={"": "cpu"}
    )


def saved_quantized(source, bits: str, folder):
    """A language model's folder as transformers saves it in 8 or 4 bits."""
    model = transformers_own(source, bits)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return model


@FAMILY
@BITS
def test_a_checkpoint_in_full_precision_is_quantized_once(family, bits, published, tmp_path):
    small_captioner(published(family), family).save(tmp_path)

    loaded = Captioner.load(tmp_path, device="cpu", quantization=bits)

    own = transformers_own(published(family), bits)
    torch.testing.assert_close(loaded.network.language_model(IDS).logits, own(IDS).logits, **CLOSE)


@FAMILY
@BITS
def test_what_is_saved_in_bits_is_loaded_as_it_is(family, bits, published, pictures, tmp_path):
    small_captioner(published(family), family).save(tmp_path / "full")
    first = Captioner.load(tmp_path / "full", device="cpu", quantization=bits)
    first.save(tmp_path / "first")

    second = Captioner.load(tmp_path / "first", device="cpu")
    second.save(tmp_path / "second")

    assert LAYERS[bits] in {type(module).__name__ for module in second.network.language_model.modules()}
    assert second.config.language_model.quantization == bits
    assert torch.equal(logprobs(second), logprobs(first))
    assert second.caption(pictures) == first.caption(pictures)
    stored = load_file(tmp_path / "first" / "model.safetensors")
    assert any(tensor.dtype in (torch.int8, torch.uint8) for tensor in stored.values())
    names = ("config.json", "model.safetensors")
    sums = [
        [hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest() for name in names]
        for folder in ("first", "second")
    ]
    assert sums[0] == sums[1]


@BITS
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bits_beside_half_precision_are_kept_too(bits, dtype, published, tmp_path):
    small_captioner(published("llama3"), "llama3").save(tmp_path / "full")
    first = Captioner.load(tmp_path / "full", device="cpu", quantization=bits, dtype=dtype)
    first.save(tmp_path / "bits")

    second = Captioner.load(tmp_path / "bits", device="cpu", dtype=dtype)

    own = transformers_own(published("llama3"), bits, getattr(torch, dtype))
    for loaded in (first, second):
        torch.testing.assert_close(loaded.network.language_model(IDS).logits, own(IDS).logits, **CLOSE)


@FAMILY
@BITS
@pytest.mark.parametrize("stored", [True, False])
def test_a_folder_saved_in_bits_is_taken_as_what_it_is(family, bits, stored, published, tmp_path):
    own = saved_quantized(published(family), bits, tmp_path / "lm")
    captioner = small_captioner(tmp_path / "lm", family)
    if not stored:
        frozen = replace(captioner.config.language_model, weights=WeightsSource(id=str(tmp_path / "lm")))
        captioner.config = replace(captioner.config, language_model=frozen)
    captioner.save(tmp_path / "model")

    loaded = Captioner.load(tmp_path / "model", device="cpu")

    assert loaded.config.language_model.quantization == bits
    for model in (captioner.network.language_model, loaded.network.language_model):
        torch.testing.assert_close(model(IDS).logits, own(IDS).logits, **CLOSE)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("4bit", r"the weights are stored in 8bit and quantization '4bit' was asked for: leave it out"),
        ("none", r"the language model is stored in 8bit, quantization 'none' cannot be had: leave it out"),
    ],
)
def test_other_bits_than_the_stored_ones_are_refused(asked, expected, stored, published, tmp_path):
    saved_quantized(published("qwen2"), "8bit", tmp_path / "lm")
    captioner = small_captioner(tmp_path / "lm", "qwen2")
    if not stored:
        frozen = replace(captioner.config.language_model, weights=WeightsSource(id=str(tmp_path / "lm")))
        captioner.config = replace(captioner.config, language_model=frozen)
    captioner.save(tmp_path / "model")

    with pytest.raises(UsageError, match=expected):
        Captioner.load(tmp_path / "model", device="cpu", quantization=asked)
    assert Captioner.load(tmp_path / "model", device="cpu", quantization="8bit")


def test_what_does_not_fit_in_stored_bits_is_named(published, tmp_path):
    from safetensors.torch import save_file

    small_captioner(published("smollm"), "smollm").save(tmp_path / "full")
    Captioner.load(tmp_path / "full", device="cpu", quantization="8bit").save(tmp_path / "bits")
    tensors = load_file(tmp_path / "bits" / "model.safetensors")
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, tmp_path / "bits" / "model.safetensors")

    with pytest.raises(WeightsError, match=rf"{tmp_path}/bits does not fit .* 1 missing \(model\.norm\.weight\)"):
        Captioner.load(tmp_path / "bits", device="cpu")


def test_weights_of_another_quantizer_are_refused(published, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((published("qwen2") / "model.safetensors").read_bytes())
    config = json.loads((published("qwen2") / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((published("qwen2") / "tokenizer.json").read_bytes())

    with pytest.raises(WeightsError, match=rf"{tmp_path}: the language model is quantized by 'gptq'; expected full"):
        small_captioner(tmp_path, "qwen2")
