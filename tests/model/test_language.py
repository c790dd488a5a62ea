from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.activations import NewGELUActivation

from git_caption.errors import UsageError, WeightsError
from git_caption.model.device_map import DeviceMap
from git_caption.model.language import (
    build_language_model,
    check_context,
    context_length,
    converted,
    input_device,
    position_ids,
    width,
)
from git_caption.params.model import LanguageModelConfig

ARCHITECTURES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 90, "n_positions": 32},
    "opt": {
        "hidden_size": 64,
        "word_embed_proj_dim": 32,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "max_position_embeddings": 32,
    },
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "max_position_embeddings": 32,
    },
}
WIDTHS = {"gpt2": 64, "opt": 32, "llama": 64}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def embedded(family: str, **others) -> LanguageModelConfig:
    return LanguageModelConfig(name="custom", architecture={"model_type": family, **ARCHITECTURES[family]}, **others)


def saved(family: str, folder):
    model = build_language_model(embedded(family))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_folder_gives_the_saved_model_in_the_asked_precision(tmp_path, family, capfd):
    model = saved(family, tmp_path)
    model.half().save_pretrained(tmp_path / "half")
    capfd.readouterr()

    loaded = build_language_model(LanguageModelConfig(name=family), tmp_path / "half", torch.float32)

    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    torch.testing.assert_close(loaded(IDS).logits, model.float()(IDS).logits, atol=1e-6, rtol=0)
    assert (width(loaded), context_length(loaded)) == (WIDTHS[family], 32)
    assert capfd.readouterr() == ("", "")


def test_an_architecture_gives_a_random_model_in_the_asked_precision():
    model = build_language_model(embedded("gpt2"), dtype=torch.bfloat16)

    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.dtype == torch.bfloat16
    assert not model.training


def test_pickled_weights_are_read(tmp_path):
    model = saved("gpt2", tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    os.remove(tmp_path / "model.safetensors")

    loaded = build_language_model(LanguageModelConfig(name="gpt2"), tmp_path)

    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_rope_scaling_is_read_as_llama_3_spells_it(published, tmp_path):
    model = build_language_model(LanguageModelConfig(name="llama3"), published("llama3"))
    (tmp_path / "model.safetensors").write_bytes((published("llama3") / "model.safetensors").read_bytes())
    config = json.loads((published("llama3") / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    ids = torch.arange(100)[None]
    logits = []
    for spelled in ({"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}, {"rope_theta": 500000.0}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **spelled}))
        logits.append(build_language_model(LanguageModelConfig(name="llama3"), tmp_path)(ids).logits)

    assert torch.equal(logits[0], model(ids).logits)
    assert not torch.allclose(logits[1], logits[0], atol=1e-2)


class Payload:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_weights_that_ask_for_code_are_refused_and_the_code_does_not_run(tmp_path):
    saved("gpt2", tmp_path)
    os.remove(tmp_path / "model.safetensors")
    torch.save({"transformer.wte.weight": Payload(tmp_path / "made")}, tmp_path / "pytorch_model.bin")

    with pytest.raises(WeightsError, match="not a loadable causal language model"):
        build_language_model(LanguageModelConfig(name="gpt2"), tmp_path)
    assert not (tmp_path / "made").exists()


def test_code_beside_weights_is_not_run(tmp_path):
    saved("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(model_type="new_thing", auto_map={"AutoConfig": "thing.C", "AutoModelForCausalLM": "thing.M"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "thing.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")

    with pytest.raises(WeightsError, match="not a loadable causal language model"):
        build_language_model(LanguageModelConfig(name="thing"), tmp_path)
    assert not (tmp_path / "made").exists()


def test_what_does_not_fit_is_listed_together(tmp_path, capfd):
    saved("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.ln_f.bias"]
    tensors["transformer.extra.weight"] = torch.zeros(2)
    tensors["transformer.wpe.weight"] = torch.zeros(16, 64)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()

    with pytest.raises(WeightsError) as caught:
        build_language_model(LanguageModelConfig(name="gpt2"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} does not fit the causal language model: 1 missing (transformer.ln_f.bias); "
        "1 unexpected (transformer.extra.weight); 1 misshapen (transformer.wpe.weight is (16, 64), expected (32, 64))"
    )
    assert capfd.readouterr() == ("", "")


def test_buffers_that_old_files_store_are_no_misfit(tmp_path):
    saved("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(16)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    assert build_language_model(LanguageModelConfig(name="llama"), tmp_path)(IDS).logits.shape == (1, 5, 90)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["a"]},
        {"n_embd": "x"},
        {"n_head": 0},
        {"quantization_config": 5},
    ],
)
def test_settings_that_make_no_model_are_named(changes, tmp_path):
    saved("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    for device_map in (None, DeviceMap({"": "cpu"})):
        with pytest.raises(WeightsError, match=rf"^{tmp_path}: ") as caught:
            build_language_model(LanguageModelConfig(name="gpt2"), tmp_path, device_map=device_map)
        assert "\n" not in str(caught.value)


def test_folders_without_a_model_are_named(tmp_path):
    for device_map in (None, DeviceMap("auto"), DeviceMap({"": "cpu"})):
        with pytest.raises(WeightsError, match=rf"{tmp_path}/config.json: not readable JSON: .*No such file"):
            build_language_model(LanguageModelConfig(name="gpt2"), tmp_path, device_map=device_map)
    saved("gpt2", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(WeightsError, match=rf"{tmp_path}: not a loadable causal language model"):
        build_language_model(LanguageModelConfig(name="gpt2"), tmp_path)


def test_faulty_architectures_are_refused():
    with pytest.raises(UsageError, match="'gpt2' has neither a folder of weights nor an architecture"):
        build_language_model(LanguageModelConfig(name="gpt2"))
    with pytest.raises(UsageError, match="model_type 'gpt9': "):
        build_language_model(LanguageModelConfig(name="custom", architecture={"model_type": "gpt9"}))


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize(
    ("quantization", "layer", "tolerance"),
    [("8bit", "Linear8bitLt", 0.05), ("4bit", "Linear4bit", 0.4)],  # worst seen 0.018 and 0.21 of the largest logit
)
def test_quantized_models_run_on_a_cpu_close_to_full_precision(tmp_path, family, quantization, layer, tolerance, capfd):
    pytest.importorskip("bitsandbytes")
    model = saved(family, tmp_path)
    config = LanguageModelConfig(name=family, quantization=quantization)

    loaded = build_language_model(config, tmp_path)
    remade = converted(model, quantization, torch.float32, "cpu")

    kinds = [type(module).__name__ for name, module in loaded.named_modules() if "layers.0." in name or "h.0." in name]
    assert kinds.count(layer) >= 4
    assert "Linear" in type(loaded.get_output_embeddings()).__name__
    exact, found = model(IDS).logits, loaded(IDS).logits
    assert 0 < (found - exact).abs().max() < tolerance * exact.abs().max()
    assert torch.equal(remade(IDS).logits, found)
    generated = loaded.generate(
        inputs_embeds=torch.randn(2, 3, WIDTHS[family]),
        attention_mask=torch.ones(2, 3, dtype=torch.long),
        max_new_tokens=4,
        min_new_tokens=4,
        pad_token_id=0,
    )
    assert generated.shape == (2, 4)
    assert "MatMul8bitLt" not in capfd.readouterr().err


def test_gradients_reach_a_prefix_through_a_quantized_model(tmp_path):
    pytest.importorskip("bitsandbytes")
    saved("llama", tmp_path)
    model = build_language_model(LanguageModelConfig(name="llama", quantization="8bit"), tmp_path)
    prefix = torch.randn(1, 3, 64, requires_grad=True)

    model(inputs_embeds=prefix).logits.sum().backward()

    assert prefix.grad is not None and prefix.grad.abs().sum() > 0


def test_no_quantization_leaves_the_model_as_it_is():
    model = build_language_model(embedded("gpt2"))

    assert converted(model, "none", torch.float32, "cpu") is model


def test_quantization_that_is_unknown_or_not_installed_is_refused(tmp_path, monkeypatch):
    saved("gpt2", tmp_path)
    with pytest.raises(UsageError, match="unknown quantization '3bit', known: none, 8bit, 4bit"):
        build_language_model(LanguageModelConfig(name="gpt2", quantization="3bit"), tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr("git_caption.model.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(UsageError, match=r"8bit loading needs bitsandbytes: pip install 'git-caption\[8bit\]'"):
        build_language_model(LanguageModelConfig(name="gpt2", quantization="8bit"), tmp_path)


def test_embeddings_that_are_on_the_disk_are_computed_where_they_are_moved_to(published):
    folder, config = published("opt"), LanguageModelConfig(name="opt")
    spread = build_language_model(config, folder, device_map=DeviceMap({"": "disk"}))

    assert spread.get_input_embeddings().weight.device == torch.device("meta")
    assert input_device(spread) == torch.device("cpu")
    assert input_device(build_language_model(config, folder)) == torch.device("cpu")
    assert input_device(build_language_model(config, folder).to("meta")) == torch.device("meta")


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])

    assert position_ids(mask).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 1, 2]]


def test_more_tokens_than_positions_are_refused():
    model = build_language_model(embedded("gpt2"))

    check_context(model, before=20, new_tokens=12)
    with pytest.raises(UsageError, match="take 20 positions and 13 tokens follow, the language model has 32"):
        check_context(model, before=20, new_tokens=13)


def test_a_model_without_positions_takes_any_length():
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    model = build_language_model(LanguageModelConfig(name="custom", architecture=bloom))

    assert context_length(model) is None
    check_context(model, before=10_000, new_tokens=10_000)


def test_gpt2_has_a_fused_activation_of_the_same_values():
    model = build_language_model(
        LanguageModelConfig(name="custom", architecture={"model_type": "gpt2", **ARCHITECTURES["gpt2"]})
    )
    values = torch.linspace(-6, 6, 1001)
    for block in model.transformer.h:
        torch.testing.assert_close(block.mlp.act(values), NewGELUActivation()(values), atol=1e-6, rtol=1e-5)
        assert type(block.mlp.act) is torch.nn.GELU
