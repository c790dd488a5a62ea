"""Runs that train cross-attention in a language model that stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from git_caption.captioner.captioner import Captioner
from git_caption.text.tokenizer import encode_target, load_tokenizer
from git_caption.training.main import main
from git_caption.tsv.rows import parse_caption_row
from tests import hub_cache, small_runs
from tests.small_runs import losses

ENCODER = {
    "name": "custom",
    "architecture": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
    },
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


def run(data: Path, out: Path, language_model: Path, **changes: Any) -> int:
    """An epoch of four steps."""
    values = {
        "image_tsv": str(data / "train.img.tsv"),
        "caption_tsv": str(data / "short.tsv"),
        "image_encoder": ENCODER,
        "language_model": {"name": str(language_model)},
        "fusion": "cross_attention",
        "nb_ca": 2,
        "epochs": 1,
    }
    return small_runs.run(out, **{**values, **changes})


def loss_of_the_language_model(folder: Path, data: Path) -> float:
    """Per target token of all captions, without a picture."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder)
    found = []
    for line in (data / "short.tsv").read_text().splitlines():
        caption = parse_caption_row(line.split("\t"), "here").captions[0]
        ids = [tokenizer.bos_token_id, *encode_target(tokenizer, caption.lower().removesuffix("."), after_prompt=False)]
        logits = model(torch.tensor([ids])).logits[0, :-1]
        found += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
    return float(np.mean(found))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_run_begins_as_its_language_model_and_leaves_the_new_layers(family, data, language_models, tmp_path, capsys):
    out, folder = tmp_path / "run", language_models[family]
    assert run(data, out, folder, bs=16, epochs=6, gradient_checkpointing=family == "llama") == 0

    assert losses(out)[0] == pytest.approx(loss_of_the_language_model(folder, data), abs=1e-4)
    assert losses(out)[-1] < losses(out)[0] - 0.05
    assert capsys.readouterr().out.startswith("preset llama_ca (RaphValeri/ImageCaptioning): lower_case True, ")
    written = json.loads((out / "config.json").read_text())
    assert written["cross_attention"] == {"blocks": [0, 1], "heads": 2, "start_token": 0}
    assert written["language_model"]["weights"]["id"] == str(folder)
    stored = load_file(out / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"cross_attention", "image_encoder"}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert Captioner.load(out, device="cpu").network.cross_attention.layers["1"].gate != 0


@pytest.mark.parametrize(
    ("tune", "keys"),
    [
        ("lora", {"lora_rank": 2, "lora_dropout": 0.0}),
        ("full", {}),
        ("mapper", {"language_model.quantization": "8bit"}),
    ],
)
def test_blocks_computed_again_change_no_loss(tune, keys, data, language_models, tmp_path):
    pytest.importorskip({"lora": "peft", "full": "torch", "mapper": "bitsandbytes"}[tune])
    for name, again in (("kept", False), ("again", True)):
        told = {"tune": tune, "gradient_checkpointing": again, "bs": 16, "epochs": 4}
        assert run(data, tmp_path / name, language_models["llama"], **told, **keys) == 0

    assert losses(tmp_path / "again") == losses(tmp_path / "kept")
    assert losses(tmp_path / "kept")[-1] < losses(tmp_path / "kept")[0]
    stored = {name.split(".")[0] for name in load_file(tmp_path / "kept" / "model.safetensors")}
    assert stored == {"cross_attention", "image_encoder"} | ({"language_model"} if tune == "full" else set())
    assert (tmp_path / "kept" / "adapter").exists() == (tune == "lora")


def test_a_run_goes_on_from_its_checkpoint(data, language_models, tmp_path, capsys):
    assert run(data, tmp_path / "first", language_models["gpt2"]) == 0
    told = {
        "init_from": str(tmp_path / "first"),
        "image_tsv": str(data / "train.img.tsv"),
        "caption_tsv": str(data / "short.tsv"),
        "output_dir": str(tmp_path / "second"),
        **{"bs": 4, "lr": 1e-2, "warmup_steps": 0, "log_every": 1, "num_workers": 0, "device": "cpu"},
    }
    (tmp_path / "second.json").write_text(json.dumps(told))
    assert main(["--config", str(tmp_path / "second.json")]) == 0, capsys.readouterr().err
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0] - 0.02
    assert json.loads((tmp_path / "second" / "config.json").read_text())["mapper"] is None
    capsys.readouterr()
    assert main(["--config", str(tmp_path / "second.json"), "--fusion", "cross_attention"]) == 2
    assert "'fusion': 'init_from' brings it; leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mapper": {"type": "mlp"}}, "'mapper': cross-attention takes features as they are; leave one of the two out"),
        ({"fusion": "prefix"}, "'nb_ca': an option of 'fusion': 'cross_attention', found 'prefix'"),
        ({"ca_layers": "middle"}, "'ca_layers': expected first, last or every:K, found 'middle'"),
        ({"ca_layers": "every:0"}, "'ca_layers': expected first, last or every:K, found 'every:0'"),
        ({"compile": True}, "'compile': layers of cross_attention cannot be compiled; leave it out"),
        ({"tune": "head"}, "new layers of cross-attention have to be trained: set 'train_mapper'"),
        ({"objective": "language"}, "'fusion': cross_attention is of captioners, and objective language trains none"),
        ({"nb_ca": 3}, "'nb_ca': 3 layers reach to block 2, and "),
        ({"nb_ca": 2, "ca_layers": "every:2"}, "'nb_ca': 2 layers reach to block 2, and "),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(keys, message, data, language_models, tmp_path, capsys):
    assert run(data, tmp_path / "run", language_models["gpt2"], **keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
