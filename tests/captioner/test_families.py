"""A captioner of every family: its checkpoint, its language model from the hub, its precisions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from git_caption.captioner.captioner import Captioner
from git_caption.errors import DataError, UsageError
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features
from git_caption.params.model import WeightsSource
from git_caption.text.tokenizer import end_token_ids
from tests import hub_cache
from tests.language_families import FAMILIES
from tests.small_captioner import ENCODER, small_captioner

EACH = pytest.mark.parametrize("family", FAMILIES)


def logprobs(captioner: Captioner) -> torch.Tensor:
    """Of some texts about three random images."""
    torch.manual_seed(5)
    values = torch.randn(3, 1, 12).to(captioner.device)
    features = Features(values, values.new_ones(3, 1, dtype=torch.bool))
    batch = TextBatch([[5], [], [6, 7]], [[8, 9], [10], [11, 12, 13]])
    return captioner.network.token_logprobs(features, batch)


@EACH
def test_tied_weights_are_saved_once_and_all_come_back(family, published, tmp_path):
    captioner = small_captioner(published(family), family)
    captioner.save(tmp_path)

    embeddings = [name for name in load_file(tmp_path / "model.safetensors") if "embed_tokens" in name or "wte" in name]
    heads = [name for name in load_file(tmp_path / "model.safetensors") if "lm_head" in name]
    loaded = Captioner.load(tmp_path, device="cpu")

    assert len(embeddings + heads) == (1 if FAMILIES[family].tied else 2)
    model = loaded.network.language_model
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == FAMILIES[family].tied
    assert torch.equal(logprobs(loaded), logprobs(captioner))


@EACH
def test_the_language_model_comes_from_an_offline_cache(family, published, pictures, hub_home, tmp_path):
    captioner = small_captioner(published(family), family)
    frozen = replace(captioner.config.language_model, weights=WeightsSource(id="org/model"))
    Captioner(replace(captioner.config, language_model=frozen), captioner.network, captioner.tokenizer).save(tmp_path)
    hub_cache.snapshot(hub_home, "org/model", published(family))

    loaded = Captioner.load(tmp_path, device="cpu")

    assert torch.equal(logprobs(loaded), logprobs(captioner))
    question = "what is left of the star?"
    assert loaded.answer(pictures, [question] * 3) == captioner.answer(pictures, [question] * 3)


@EACH
def test_a_checkpoint_keeps_the_end_tokens_of_its_language_model(family, published, tmp_path):
    captioner = small_captioner(published(family), family)
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path, device="cpu")

    for one in (captioner, loaded):
        ids = end_token_ids(one.tokenizer, one.network.language_model)
        assert tuple(one.tokenizer.convert_ids_to_tokens(ids)) == FAMILIES[family].ends


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float16", 0.03)])  # worst seen 0.06 and 0.009
def test_half_precisions_run_on_a_cpu_close_to_full(family, dtype, tolerance, published, pictures, tmp_path):
    captioner = small_captioner(published(family), family)
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path, device="cpu", dtype=dtype)

    assert {parameter.dtype for parameter in loaded.network.parameters()} == {getattr(torch, dtype)}
    exact, found = logprobs(captioner), logprobs(loaded)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < tolerance
    assert len(loaded.caption(pictures)) == 3


@pytest.mark.gpu
@EACH
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-2), ("bfloat16", 0.3), ("float16", 0.05), ("auto", 0.3)]
)
def test_every_precision_runs_on_a_gpu(family, dtype, tolerance, published, pictures, tmp_path):
    captioner = small_captioner(published(family), family)
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path, device="cuda", dtype=dtype)

    assert (logprobs(loaded).cpu() - logprobs(captioner)).abs().max() < tolerance
    assert len(loaded.caption(pictures)) == 3


RESNET = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", [ENCODER.architecture, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize(
    ("mapper", "output"), [("mlp", "pooled"), ("linear", "grid"), ("linearLn", "grid"), ("transformer", "grid")]
)
def test_encoders_and_mappers_run_in_half_precision_on_a_cpu(
    mapper, output, architecture, dtype, published, pictures, tmp_path
):
    encoder = replace(ENCODER, architecture=architecture)
    captioner = small_captioner(published("gpt2"), "gpt2", mapper, output, image_encoder=encoder)
    with torch.no_grad():
        for parameter in captioner.network.image_encoder.parameters():
            parameter.mul_(0.5)
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path, device="cpu", dtype=dtype)

    half = getattr(torch, dtype)
    features, exact = (one.encode(captioner.pixels(pictures[0])) for one in (loaded, captioner))
    prefixes = [network.prefix(features)[0] for network in (loaded.network, captioner.network)]

    assert features.values.dtype == half
    assert loaded.network.language_inputs(features, [[5]])["inputs_embeds"].dtype == half
    # features kept in full precision are cast at the mapper
    assert loaded.network.language_inputs(exact, [[5]])["inputs_embeds"].dtype == half
    for found, wanted in ((features.values, exact.values), prefixes):
        error = (found.float() - wanted.float()).abs().max() / wanted.abs().max()
        assert error < {"bfloat16": 0.05, "float16": 0.005}[dtype]  # worst seen 0.012 and 0.0012


def test_a_chat_is_kept_in_the_checkpoint_and_may_be_asked_for(published, pictures, tmp_path):
    captioner = small_captioner(published("qwen2"), "qwen2")
    question = "what is left of the star?"
    plain = captioner.answer(pictures, [question] * 3)
    chatting = captioner.with_chat(True, "one word.")
    chatting.save(tmp_path)
    loaded = Captioner.load(tmp_path, device="cpu")

    assert (loaded.config.prompt.chat, loaded.config.prompt.system) == (True, "one word.")
    expected = (
        f"<|im_start|>system\none word.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert captioner.tokenizer.decode(loaded.prompt_ids(loaded.question_prompt(question))) == expected
    answers = loaded.answer(pictures, [question] * 3)
    assert answers == chatting.answer(pictures, [question] * 3) != plain
    assert [loaded.answer(pictures[:1], [question])[0], *answers[1:]] == answers
    # asked for, it goes before the checkpoint's
    assert loaded.with_chat(False).answer(pictures, [question] * 3) == plain
    assert loaded.with_chat(system="").config.prompt.system == ""
    assert loaded.with_chat() is not None and loaded.config.prompt.chat


def test_a_chat_needs_a_template_from_the_start(published, tmp_path):
    captioner = small_captioner(published("gpt2"))
    with pytest.raises(UsageError, match=r"'chat': the language model's tokenizer has no chat template"):
        captioner.with_chat(True)
    with pytest.raises(UsageError, match=r"'system': a message of a chat, and 'chat' is False"):
        captioner.with_chat(system="one word.")
    captioner.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["prompt"]["chat"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"'chat': the language model's tokenizer has no chat template"):
        Captioner.load(tmp_path, device="cpu")


def test_an_encoder_that_overflows_in_a_precision_says_so(published, pictures, tmp_path):
    captioner = small_captioner(published("gpt2"))
    with torch.no_grad():
        captioner.network.image_encoder.visual.proj.mul_(1e5)
    captioner.save(tmp_path)

    assert len(Captioner.load(tmp_path, device="cpu", dtype="bfloat16").caption(pictures)) == 3
    with pytest.raises(DataError, match=r"a logit that is not a finite number, in float16; if 'dtype': 'float32'"):
        Captioner.load(tmp_path, device="cpu", dtype="float16").caption(pictures)


def test_generation_settings_beside_a_language_model_name_its_end_tokens(published, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((published("llama3") / name).read_bytes())
    captioner = small_captioner(tmp_path, "llama3")
    assert end_token_ids(captioner.tokenizer, captioner.network.language_model) == (1,)

    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 1]}))
    captioner = small_captioner(tmp_path, "llama3")
    assert end_token_ids(captioner.tokenizer, captioner.network.language_model) == (1, 4)
