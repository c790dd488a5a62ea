"""A checkpoint with an adapter: what is in it, who can read it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from git_caption.captioner import weight_sources
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.repository_files import checkpoint_files
from git_caption.errors import WeightsError
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features
from git_caption.params.model import WeightsSource
from tests.small_captioner import adapted, small_captioner

peft = pytest.importorskip("peft")

IDS = torch.tensor([[5, 6, 7, 8, 9]])
FILES = ("adapter_config.json", "adapter_model.safetensors")


def referring(captioner: Captioner, language_model: Path) -> Captioner:
    """The captioner with its language model in a folder of its own."""
    captioner.config = replace(
        captioner.config,
        language_model=replace(captioner.config.language_model, weights=WeightsSource(id=str(language_model))),
    )
    return captioner


def logprobs(captioner: Captioner) -> torch.Tensor:
    """Of some texts about three random images."""
    generator = torch.Generator().manual_seed(5)
    features = Features(torch.randn(3, 1, 12, generator=generator), torch.ones(3, 1, dtype=torch.bool))
    batch = TextBatch([[5], [], [6, 7]], [[8, 9], [10], [11, 12, 13]])
    with torch.no_grad():
        return captioner.network.token_logprobs(features, batch)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama3"])
@pytest.mark.parametrize("stored", [True, False])
def test_what_is_saved_is_loaded_and_saved_again_bit_for_bit(family, stored, published, pictures, tmp_path):
    first = adapted(small_captioner(published(family), family), dora=family == "llama3")
    if not stored:
        referring(first, published(family))
    first.save(tmp_path / "first")
    second = Captioner.load(tmp_path / "first", device="cpu")
    second.save(tmp_path / "second")

    assert torch.equal(logprobs(second), logprobs(first))
    assert second.caption(pictures) == first.caption(pictures)
    names = [f"adapter/{name}" for name in FILES]
    for name in ("config.json", "model.safetensors", *names):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    kept = {name.split(".")[0] for name in load_file(tmp_path / "first" / "model.safetensors")}
    assert kept == {"image_encoder", "mapper"} | ({"language_model"} if stored else set())


@pytest.mark.parametrize("family", ["gpt2", "llama3"])
def test_peft_itself_reads_the_adapter(family, published, tmp_path):
    captioner = adapted(small_captioner(published(family), family))
    referring(captioner, published(family)).save(tmp_path)

    own = AutoModelForCausalLM.from_pretrained(published(family), dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(own, tmp_path / "adapter").eval()

    torch.testing.assert_close(theirs(IDS).logits, captioner.network.language_model(IDS).logits, atol=1e-5, rtol=0)
    assert "/" not in (tmp_path / "adapter" / "adapter_config.json").read_text()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("stored", [True, False])
def test_an_adapter_stands_beside_weights_in_bits(bits, stored, published, tmp_path):
    pytest.importorskip("bitsandbytes")
    plain = small_captioner(published("llama3"), "llama3")
    (plain if stored else referring(plain, published("llama3"))).save(tmp_path / "plain")
    first = adapted(Captioner.load(tmp_path / "plain", device="cpu", quantization=bits))
    first.save(tmp_path / "first")
    second = Captioner.load(tmp_path / "first", device="cpu")

    assert second.config.language_model.quantization == bits
    assert torch.equal(logprobs(second), logprobs(first))
    assert not torch.equal(logprobs(second), logprobs(plain))


def test_an_adapter_computes_where_its_layers_do(published, tmp_path):
    captioner = adapted(small_captioner(published("llama3"), "llama3"))
    captioner.save(tmp_path)

    spread = Captioner.load(tmp_path, device="cpu", device_map={"": "disk"})

    assert torch.equal(logprobs(spread), logprobs(captioner))


def test_the_fingerprint_tells_of_the_adapter(published, tmp_path):
    adapted(small_captioner(published("gpt2"), "gpt2")).save(tmp_path)
    print_of, digest = Captioner.load(tmp_path, device="cpu").fingerprint, weight_sources.weights_sha256(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, file)

    assert Captioner.load(tmp_path, device="cpu").fingerprint != print_of
    assert weight_sources.weights_sha256(tmp_path) != digest


def test_an_adapter_that_is_not_the_one_told_of_is_refused(published, tmp_path):
    adapted(small_captioner(published("gpt2"), "gpt2")).save(tmp_path)
    config, weights = (tmp_path / "adapter" / name for name in FILES)
    told = json.loads(config.read_text())

    config.write_text(json.dumps({**told, "r": 8, "lora_alpha": 16}))
    with pytest.raises(
        WeightsError, match=r"adapter_config.json is not .*: r 8, expected 2; lora_alpha 16, expected 32"
    ):
        Captioner.load(tmp_path, device="cpu")
    config.write_text(json.dumps(told))
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if ".mlp." not in name}, weights)
    with pytest.raises(WeightsError, match=r"adapter_model.safetensors does not fit the language model: 8 missing"):
        Captioner.load(tmp_path, device="cpu")
    weights.unlink()
    with pytest.raises(WeightsError, match=r"no adapter_model.safetensors; the checkpoint is incomplete"):
        Captioner.load(tmp_path, device="cpu")


def test_an_adapter_is_fetched_with_its_checkpoint():
    names = [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer/tokenizer.json",
        *(f"adapter/{n}" for n in FILES),
    ]

    assert checkpoint_files(names) == (names[1:], [])


def test_a_model_without_an_adapter_replaces_one_with_it(published, tmp_path):
    adapted(small_captioner(published("gpt2"), "gpt2")).save(tmp_path)
    small_captioner(published("gpt2"), "gpt2").save(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "tokenizer"}
