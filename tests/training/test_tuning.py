"""What of a network a run trains, and what it leaves of it: on small scenes and networks of a few thousand weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from git_caption.captioner.captioner import Captioner
from git_caption.model.git import GitNetwork, TextBatch
from git_caption.model.language import build_language_model
from git_caption.model.quantization import count
from git_caption.model.vision import Features
from git_caption.params.model import LanguageModelConfig, WeightsSource
from tests import hub_cache, small_runs
from tests.small_captioner import adapted, small_captioner
from tests.small_runs import losses

pytest.importorskip("peft")

MODEL, ADAPTER = "model.safetensors", "adapter/adapter_model.safetensors"
TEXTS = TextBatch([[5], [], [6, 7]], [[8, 9], [10], [11, 12, 13]])

ENCODER = {
    "name": "custom",
    "architecture": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
    },
    "output": "pooled",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    small_runs.scenes(folder)
    return folder


@pytest.fixture(scope="module")
def language_models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("language_models")
    return {family: hub_cache.language_model(folder / family, family) for family in ("gpt2", "opt", "llama")}


@pytest.fixture(scope="module")
def start(tmp_path_factory, language_models) -> Path:
    """A folder of checkpoints to go on from: of each family, and `adapted`, a LLaMA with an adapter."""
    folder = tmp_path_factory.mktemp("start")
    for family in language_models:
        small_captioner(language_models[family], family).save(folder / family)
    adapted(small_captioner(language_models["llama"], "llama"), dropout=0.0).save(folder / "adapted")
    return folder


def run(data: Path, out: Path, **changes: Any) -> int:
    """Two epochs of four steps, from a checkpoint or from parts."""
    tsvs = {"image_tsv": str(data / "train.img.tsv"), "caption_tsv": str(data / "short.tsv")}
    return small_runs.run(out, **{**tsvs, "epochs": 2, **changes})


def changed(before: Path, after: Path) -> set[str]:
    """The names of the stored tensors that a run has changed."""
    old, new = load_file(before / MODEL), load_file(after / MODEL)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def logprobs(captioner: Captioner) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    features = Features(torch.randn(3, 1, 12, generator=generator), torch.ones(3, 1, dtype=torch.bool))
    with torch.no_grad():
        return captioner.network.token_logprobs(features, TEXTS)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({}, {"mapper"}),
        ({"tune": "full"}, {"mapper", "language_model"}),
        ({"tune": "full", "train_mapper": False}, {"language_model"}),
        ({"tune": "head"}, {"head"}),
        ({"tune": "head", "train_mapper": True}, {"head", "mapper"}),
        ({"tune": "lora"}, {"mapper", "adapter"}),
        ({"tune": "lora", "train_mapper": False}, {"adapter"}),
    ],
)
def test_a_run_changes_what_it_is_told_to_train(keys, parts, family, data, start, tmp_path):
    out = tmp_path / "run"
    assert run(data, out, init_from=str(start / family), epochs=0.5, **keys) == 0

    seen = changed(start / family, out)

    named = {name.split(".")[0] for name in seen}
    assert named == {"language_model" if part == "head" else part for part in parts - {"adapter"}}
    of_language_model = {name for name in seen if name.startswith("language_model.")}
    if "head" in parts:
        assert of_language_model == {"language_model.lm_head.weight"}  # GPT-2's input embeddings are the same tensor
    elif "language_model" in parts:
        assert len(of_language_model) == sum(name.startswith("language_model.") for name in load_file(out / MODEL))
    assert (out / "adapter").exists() == ("adapter" in parts)


def test_a_merged_adapter_computes_what_it_computes_unmerged(data, start, tmp_path):
    for name, merge in (("beside", False), ("merged", True)):
        keys = {"init_from": str(start / "gpt2"), "tune": "lora", "lora_rank": 4, "lora_merge": merge}
        assert run(data, tmp_path / name, **keys) == 0
    beside, merged = (Captioner.load(tmp_path / name, device="cpu") for name in ("beside", "merged"))

    assert losses(tmp_path / "beside") == losses(tmp_path / "merged")
    assert losses(tmp_path / "beside")[-1] < losses(tmp_path / "beside")[0] - 0.3
    torch.testing.assert_close(logprobs(merged), logprobs(beside), atol=1e-4, rtol=1e-5)
    assert beside.config.adapter.rank == 4 and merged.config.adapter is None
    assert not (tmp_path / "merged" / "adapter").exists()
    assert {tensor.dtype for tensor in load_file(tmp_path / "beside" / ADAPTER).values()} == {torch.float32}


def test_an_adapter_found_is_trained_further_kept_or_merged(data, start, tmp_path, capsys):
    first = {}
    for tune in ("lora", "mapper", "full"):
        assert run(data, tmp_path / tune, init_from=str(start / "adapted"), tune=tune, epochs=0.5) == 0
        first[tune] = losses(tmp_path / tune)[0]
    before = (start / "adapted" / ADAPTER).read_bytes()

    assert first["lora"] == first["mapper"] == pytest.approx(first["full"], abs=1e-4)
    assert {name.split(".")[0] for name in changed(start / "adapted", tmp_path / "lora")} == {"mapper"}
    assert (tmp_path / "lora" / ADAPTER).read_bytes() != before
    assert (tmp_path / "mapper" / ADAPTER).read_bytes() == before
    assert not (tmp_path / "full" / "adapter").exists()
    capsys.readouterr()
    assert run(data, tmp_path / "x", init_from=str(start / "adapted"), tune="lora", lora_rank=8) == 2
    assert "adapter, which is trained further: 'lora_rank' is 2, not 8; leave these" in capsys.readouterr().err


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("tune", ["mapper", "lora"])
def test_beside_weights_in_bits_the_mapper_and_lora_learn(bits, tune, data, language_models, tmp_path):
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "run"
    parts = {
        "image_encoder": ENCODER,
        "mapper": {"type": "mlp"},
        "language_model": {"name": str(language_models["llama"]), "quantization": bits},
    }
    assert run(data, out, **parts, tune=tune, epochs=4, gradient_checkpointing=tune == "lora") == 0

    found = losses(out)
    assert found[-1] < found[0] - 0.5
    written = json.loads((out / "config.json").read_text())["language_model"]
    assert (written["quantization"], written["weights"]["id"]) == (bits, str(language_models["llama"]))
    assert not any(name.startswith("language_model.") for name in load_file(out / MODEL))
    assert Captioner.load(out, device="cpu").config.language_model.quantization == bits


@pytest.mark.parametrize("bits", ["none", "8bit", "4bit"])
def test_weights_are_as_many_in_bits_as_in_full(bits, language_models):
    if bits != "none":
        pytest.importorskip("bitsandbytes")
    model = build_language_model(LanguageModelConfig(name="llama", quantization=bits), language_models["llama"])
    assert count(model.parameters()) == sum(
        tensor.numel() for tensor in load_file(language_models["llama"] / MODEL).values()
    )


@pytest.mark.parametrize(("bits", "atol"), [("8bit", 0.05), ("4bit", 1e-4)])
def test_the_mappers_gradient_through_weights_in_bits_is_that_through_their_values(bits, atol, language_models):
    """8 bits round what goes in too, by a hundredth or so; 4 bits are of the weights alone."""
    functional = pytest.importorskip("bitsandbytes.functional")
    captioner = small_captioner(language_models["llama"], "llama")
    config = LanguageModelConfig(name="llama", quantization=bits)
    in_bits = build_language_model(config, language_models["llama"])
    in_full = build_language_model(LanguageModelConfig(name="llama"), language_models["llama"])
    for name, layer in in_bits.named_modules():
        if type(layer).__name__ == "Linear8bitLt":
            values = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        elif type(layer).__name__ == "Linear4bit":
            values = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        else:
            continue
        in_full.get_submodule(name).weight.data.copy_(values)
    assert {
        parameter.dtype for name, parameter in in_bits.named_parameters() if "norm" in name or "lm_head" in name
    } == {torch.float32}
    features = Features(torch.randn(3, 1, 12), torch.ones(3, 1, dtype=torch.bool))

    def gradient(language_model) -> torch.Tensor:
        network = GitNetwork(captioner.network.image_encoder, copy.deepcopy(captioner.network.mapper), language_model)
        network.train()
        (-network.token_logprobs(features, TEXTS).mean()).backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.mapper.parameters()])

    found, wanted = gradient(in_bits), gradient(in_full)

    assert (found - wanted).norm() / wanted.norm() < atol


@pytest.mark.parametrize(("family", "tune"), [("opt", "mapper"), ("gpt2", "full"), ("llama", "lora")])
def test_gradient_checkpointing_changes_no_loss(family, tune, data, start, tmp_path):
    for name, checkpointing in (("kept", False), ("again", True)):
        keys = {"init_from": str(start / family), "tune": tune, "gradient_checkpointing": checkpointing}
        assert run(data, tmp_path / name, **keys, epochs=1) == 0

    assert losses(tmp_path / "again") == losses(tmp_path / "kept")


def test_only_what_is_trained_is_in_training_mode(start):
    network = Captioner.load(start / "opt", device="cpu").network
    network.mapper.requires_grad_(True)
    network.train()

    assert network.mapper.training
    assert not any(module.training for module in network.language_model.modules())
    assert not any(module.training for module in network.image_encoder.modules())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_rank": 4}, "'lora_rank': an option of 'tune': 'lora', found 'tune': 'mapper'"),
        ({"lora_merge": True, "tune": "full"}, "'lora_merge': an option of 'tune': 'lora', found 'tune': 'full'"),
        ({"train_mapper": False}, "'train_mapper': False, and nothing else is trained"),
        ({"tune": "head", "init_from": None}, "a new mapper is random and has to be trained: set 'train_mapper'"),
        (
            {
                "tune": "lora",
                "lora_merge": True,
                "init_from": None,
                "language_model": {"name": "x", "quantization": "8bit"},
            },
            "'lora_merge': weights in 8 or 4 bits stay as they are: 'tune' can be mapper or lora",
        ),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_loaded(keys, message, data, start, tmp_path, capsys):
    parts = {"image_encoder": ENCODER, "language_model": {"name": "gpt2"}} if "init_from" in keys else {}
    given = {"init_from": str(start / "gpt2"), **parts, **keys}
    assert run(data, tmp_path / "run", **given) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_in_bits_is_not_trained_in_full(data, start, language_models, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    captioner = small_captioner(language_models["llama"], "llama")
    weights = WeightsSource(id=str(language_models["llama"]))
    captioner.config = replace(
        captioner.config,
        language_model=replace(captioner.config.language_model, weights=weights, quantization="8bit"),
    )
    captioner.save(tmp_path / "bits")

    assert run(data, tmp_path / "run", init_from=str(tmp_path / "bits"), tune="head") == 2
    assert "'tune': llama is in 8bit; weights in 8 or 4 bits stay as they are" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_computes_the_same_losses(backend, data, start, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for name, compiled in (("plain", False), ("compiled", True)):
        keys = {"init_from": str(start / "llama"), "tune": "lora", "lora_dropout": 0.0, "compile": compiled}
        assert run(data, tmp_path / name, **keys, epochs=1) == 0

    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
