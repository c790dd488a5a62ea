"""A language model spread over devices gives what it gives on one."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError, WeightsError
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features
from git_caption.params.model import WeightsSource
from tests.language_families import FAMILIES
from tests.small_captioner import small_captioner

BODY = {"gpt2": "transformer"}  # the name of all but the output layer; `model` in other families


def logprobs(captioner: Captioner) -> torch.Tensor:
    """Of some texts about three random images."""
    generator = torch.Generator().manual_seed(5)
    features = Features(torch.randn(3, 1, 12, generator=generator), torch.ones(3, 1, dtype=torch.bool))
    batch = TextBatch([[5], [], [6, 7]], [[8, 9], [10], [11, 12, 13]])
    with torch.no_grad():
        return captioner.network.token_logprobs(features, batch).cpu()


def checkpoint(family: str, language_model: Path, folder: Path, stored: bool) -> Captioner:
    """A captioner saved in `folder` with its language model in it, or referred to."""
    captioner = small_captioner(language_model, family)
    if not stored:
        frozen = replace(captioner.config.language_model, weights=WeightsSource(id=str(language_model)))
        captioner.config = replace(captioner.config, language_model=frozen)
    captioner.save(folder)
    return captioner


@pytest.fixture
def small_temporary(tmp_path, monkeypatch) -> Path:
    """The folder that temporary files go to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stored", [True, False])
def test_offloaded_models_give_the_same_logits_and_texts(
    family, stored, published, pictures, tmp_path, small_temporary, capfd
):
    captioner = checkpoint(family, published(family), tmp_path / "model", stored)
    capfd.readouterr()
    maps = [
        ({BODY.get(family, "model"): "cpu", "lm_head": "cpu"}, None, False),
        ({"": "disk"}, None, True),
        ("auto", None, False),
        ("auto", {"cpu": "300KB"}, True),
        ("sequential", {"cpu": 300_000}, True),
    ]
    for device_map, max_memory, offloaded in maps:
        spread = Captioner.load(tmp_path / "model", device="cpu", device_map=device_map, max_memory=max_memory)
        on_disk = [name for name, value in spread.network.language_model.named_parameters() if value.is_meta]
        assert bool(on_disk) == offloaded
        assert torch.equal(logprobs(spread), logprobs(captioner))
        assert spread.caption(pictures) == captioner.caption(pictures)
    del spread
    gc.collect()
    assert list(small_temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_map_may_name_single_modules(published, tmp_path):
    captioner = checkpoint("llama3", published("llama3"), tmp_path, stored=True)
    modules = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
    modules |= {"model.rotary_emb": "cpu", "lm_head": "disk"}

    spread = Captioner.load(tmp_path, device="cpu", device_map=modules)

    away = {name for name, value in spread.network.language_model.named_parameters() if value.is_meta}
    assert {name.startswith(("model.layers.1.", "lm_head.")) for name in away} == {True}
    assert torch.equal(logprobs(spread), logprobs(captioner))


def test_a_map_that_does_not_fit_is_refused_with_all_that_is_wrong(published, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checkpoint("qwen2", published("qwen2"), tmp_path, stored=True)

    def refused(modules, max_memory=None) -> str:
        with pytest.raises(UsageError) as caught:
            Captioner.load(tmp_path, device="cpu", device_map=modules, max_memory=max_memory)
        return str(caught.value)

    assert refused({"": "cuda:3"}) == "'device_map': there is no GPU 3, torch sees 1"
    assert refused({"": "3"}) == "'device_map': there is no GPU 3, torch sees 1"
    assert refused({"model": "tpu", "lm_heads": "cpu"}) == (
        "'device_map': there is no device 'tpu', expected the number of a GPU, cpu, mps or disk; 'device_map': the "
        "language model has no lm_heads; its modules are model, model.embed_tokens, model.layers, model.norm, "
        "model.rotary_emb, lm_head; 'device_map': model.embed_tokens.weight and lm_head.weight are one tensor; give "
        "both a device, the same"
    )
    assert refused({"model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers.0": "cpu"}).startswith(
        "'device_map': no device for model.layers.1.self_attn.q_proj.weight and 12 more tensors"
    )
    assert refused({"model": "cpu", "lm_head": "cpu", "model.norm": "disk"}) == (
        "'device_map': 'model.norm' is in 'model': give each module one device, by its own name or by one around it"
    )
    assert refused({"model": "cpu", "lm_head": "disk"}) == (
        "'device_map': model.embed_tokens.weight and lm_head.weight are one tensor; give both a device, the same"
    )
    assert refused("auto", {"4": "1GiB", "cpu": "lots"}) == (
        "'max_memory': there is no GPU 4, torch sees 1; 'max_memory': expected bytes or texts as 10GiB or 500MB, "
        "found {'4': '1GiB', 'cpu': 'lots'}"
    )


def test_bits_are_not_kept_on_the_disk(published, tmp_path):
    pytest.importorskip("bitsandbytes")
    captioner = checkpoint("llama2", published("llama2"), tmp_path, stored=True)

    spread = Captioner.load(tmp_path, device="cpu", quantization="8bit", device_map={"": "cpu"})
    assert 0 < (logprobs(spread) - logprobs(captioner)).abs().max() < 1
    with pytest.raises(WeightsError, match=rf"{tmp_path}: not a .*dispatched on the CPU or the disk"):
        Captioner.load(tmp_path, device="cpu", quantization="8bit", device_map={"": "disk"})


@pytest.mark.gpu
@pytest.mark.parametrize("modules", [{"": 0}, {"model": 0, "lm_head": "cpu"}, "auto"])
def test_image_encoder_and_language_model_may_be_on_different_devices(modules, published, pictures, tmp_path):
    captioner = checkpoint("llama2", published("llama2"), tmp_path, stored=True)

    spread = Captioner.load(tmp_path, device="cpu", dtype="float32", device_map=modules)

    assert spread.device == torch.device("cpu")
    torch.testing.assert_close(logprobs(spread), logprobs(captioner), atol=1e-3, rtol=0)
    assert spread.caption(pictures) == captioner.caption(pictures)
