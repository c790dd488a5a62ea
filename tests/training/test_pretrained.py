"""Pretrained captioners trained further: what changes, what is stored, and what reads it back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from git_caption.captioner.captioner import Captioner
from git_caption.captioner.pretrained import PretrainedCaptioner
from git_caption.jobs.main import main as job
from git_caption.model.git import TextBatch
from git_caption.training.loop import TrainingRun
from tests import hub_cache, small_runs
from tests.pretrained_models import FAMILIES, SIDE, blip, llava
from tests.small_runs import losses

pytest.importorskip("peft")
TRAINED = ("blip", "blip2", "blip2_seq2seq", "git", "vit_gpt2")
WEIGHTS, ADAPTER = "model.safetensors", "adapter/adapter_model.safetensors"
TEXTS = TextBatch([[], []], [[7, 9, 8, 3], [12, 5]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name in TRAINED:
        torch.manual_seed(3)
        made[name] = FAMILIES[name](tmp_path_factory.mktemp(name) / name)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight pictures, two to each text."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(8):
        Image.new("RGB", (40, 36), (number * 30, 90, 255 - number * 30)).save(folder / f"{number}.png")
        rows.append({"text": hub_cache.TEXTS[number // 2], "image": f"{number}.png"})
    (folder / "T.json").write_text(json.dumps(rows))
    return folder / "T.json"


def run(data: Path, out: Path, **changes: Any) -> int:
    """Four steps of two epochs."""
    return small_runs.run(out, **{"data": str(data), "epochs": 2, **changes})


def loaded(folder: Path) -> PretrainedCaptioner:
    captioner = Captioner.load(folder, device="cpu")
    assert isinstance(captioner, PretrainedCaptioner)
    return captioner


def logprobs(captioner: Captioner) -> torch.Tensor:
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return captioner.network.token_logprobs(captioner.network.encode(pixels), TEXTS)


def changed_parts(base: Path, out: Path) -> set[str]:
    """The parts of which a run has changed any weight."""
    before, after = loaded(base).network, loaded(out).network
    old, new = before.model.state_dict(), after.model.state_dict()
    renamed = {name.replace(".base_layer.", "."): tensor for name, tensor in new.items()}
    differing = [name for name in old if not torch.equal(old[name], renamed[name])]
    parts = {part for part in after.modules_of for name in differing if after.is_in(name, part)}
    assert all(any(after.is_in(name, part) for part in parts) for name in differing)
    return parts


ALL = {"tune": "full", "train_image_encoder": True}
CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    *((family, ALL, {"decoder", "mapper", "image_encoder"}) for family in TRAINED[1:]),
    ("blip", ALL, {"decoder", "image_encoder"}),
    ("blip", {"tune": "lora"}, set()),
    ("git", {"tune": "full"}, {"decoder", "mapper"}),
    ("git", {"tune": "full", "train_mapper": False}, {"decoder"}),
    ("git", {"tune": "head"}, {"decoder"}),
    ("blip2", {"tune": "mapper"}, {"mapper"}),
]


@pytest.mark.parametrize(("family", "keys", "parts"), CASES)
def test_a_run_changes_what_it_is_told_to_train_and_is_read_back(family, keys, parts, bases, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(data, out, captioner=str(bases[family]), val_data=str(data), **keys) == 0, capsys.readouterr().err
    assert losses(out)[-1] < losses(out)[0]
    assert changed_parts(bases[family], out) == parts
    assert bool(load_file(out / WEIGHTS)) == bool(parts) and (out / ADAPTER).exists() == (keys["tune"] == "lora")
    with open(out / "validation.csv", newline="") as file:
        said = min(float(row["loss"]) for row in csv.DictReader(file))
    assert said == pytest.approx(validation_loss(loaded(out), data), rel=1e-4)


def validation_loss(captioner: PretrainedCaptioner, data: Path) -> float:
    """The mean over all target tokens, from the pictures' own files and texts."""
    total, count = 0.0, 0
    for row in json.loads(data.read_text()):
        target = [*captioner.tokenizer(row["text"], add_special_tokens=False).input_ids, captioner.network.end_id]
        features = captioner.encode(captioner.pixels(data.parent / row["image"]))
        prompt = captioner.prompt_ids("")
        total -= float(captioner.network.token_logprobs(features, TextBatch([prompt], [target])).sum())
        count += len(target)
    return total / count


@pytest.mark.parametrize("family", TRAINED)
def test_merged_lora_is_a_folder_that_transformers_reads(family, bases, data, tmp_path, capsys):
    keys = {"captioner": str(bases[family]), "tune": "lora", "lora_rank": 4, "decoding": {"max_new_tokens": 7}}
    assert run(data, tmp_path / "beside", prompt={"caption": "the"}, **keys) == 0
    folders = [tmp_path / "exported"]
    if family == "git":
        folders.append(tmp_path / "merged")
        assert run(data, folders[-1], prompt={"caption": "the"}, lora_merge=True, **keys) == 0
    exported = {"type": "export", "model_path": str(tmp_path / "beside"), "out_dir": str(tmp_path / "exported")}
    assert job(["-p", json.dumps(exported)]) == 0, capsys.readouterr().err

    expected = logprobs(loaded(tmp_path / "beside"))
    base: Any = loaded(bases[family]).network.model
    for folder in folders:
        captioner = loaded(folder)
        torch.testing.assert_close(logprobs(captioner), expected, atol=1e-4, rtol=1e-4)
        assert (captioner.config.prompt.caption, captioner.config.decoding.max_new_tokens) == ("the", 7)
        read, info = type(base).from_pretrained(folder, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert read.state_dict().keys() == base.state_dict().keys()
        assert not (folder / "adapter").exists()


def test_a_run_goes_on_from_a_checkpoint_with_its_adapter(bases, data, tmp_path, capsys):
    assert run(data, tmp_path / "full", captioner=str(bases["blip"]), tune="full", seed=1) == 0
    first = tmp_path / "full"
    assert run(data, tmp_path / "lora", captioner=str(first), tune="lora", lora_dropout=0.0, epochs=1) == 0
    second = tmp_path / "lora"
    assert loaded(second).tuned.stored == ("decoder",)
    assert loaded(second).tuned.captioner == loaded(first).tuned.captioner
    assert all(
        torch.equal(tensor, load_file(second / WEIGHTS)[name]) for name, tensor in load_file(first / WEIGHTS).items()
    )

    assert run(data, tmp_path / "more", init_from=str(second), tune="lora", epochs=1) == 0
    old, new = load_file(second / ADAPTER), load_file(tmp_path / "more" / ADAPTER)
    assert old.keys() == new.keys() and not any(torch.equal(old[name], new[name]) for name in old if "lora_B" in name)

    assert run(data, tmp_path / "merging", init_from=str(second), tune="full", epochs=0.5, lr=1e-9) == 0
    torch.testing.assert_close(logprobs(loaded(tmp_path / "merging")), logprobs(loaded(second)), atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "merging" / "adapter").exists()


def test_a_stopped_run_goes_on_to_the_same_end(bases, data, tmp_path, monkeypatch):
    keys = {"captioner": str(bases["blip"]), "tune": "lora", "save_every": 1, "val_data": str(data)}
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole, **keys) == 0
    take = TrainingRun._step

    def ends(training, number, *rest):
        if number == 3:
            raise KeyboardInterrupt
        return take(training, number, *rest)

    monkeypatch.setattr(TrainingRun, "_step", ends)
    assert run(data, out, **keys) == 75
    monkeypatch.setattr(TrainingRun, "_step", take)
    assert run(data, out, **keys) == 0
    assert losses(out) == losses(whole) and (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def test_blocks_computed_again_and_accumulated_batches_give_the_same_losses(bases, data, tmp_path):
    keys = {"tune": "lora", "lora_dropout": 0.0, "loss_save_path": str(tmp_path / "losses.npy")}
    for family in ("blip", "git"):  # BLIP drops out: its text part is as it was pretrained
        base = str(bases[family])
        assert run(data, tmp_path / f"{family}_plain", captioner=base, **keys) == 0
        again = {**keys, "gradient_checkpointing": True}
        assert run(data, tmp_path / f"{family}_again", captioner=base, **again) == 0
        assert losses(tmp_path / f"{family}_again") == pytest.approx(losses(tmp_path / f"{family}_plain"), rel=1e-5)
    assert (tmp_path / "losses.npy").exists()


def test_the_captioner_that_a_checkpoint_was_trained_from_must_be_the_same(data, tmp_path, capsys):
    base = blip(tmp_path / "base")
    assert run(data, tmp_path / "run", captioner=str(base), tune="lora", epochs=0.5) == 0
    tensors = load_file(base / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, base / WEIGHTS, metadata={"format": "pt"})
    capsys.readouterr()
    params = {"type": "test_git_inference_single_image", "model_path": str(tmp_path / "run")}
    code = job(["-p", json.dumps({**params, "image_path": str(data.parent / "0.png")})])
    assert code == 1 and "sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mapper": {"type": "mlp"}}, "'mapper': 'captioner' brings all parts"),
        ({"features": "T.json"}, "'captioner': is trained from pictures, not from features"),
        ({"prompted": True}, "'prompted': not done with a pretrained 'captioner'"),
        ({"fusion": "cross_attention"}, "'fusion': not done with a pretrained 'captioner'"),
        ({"device_map": "auto"}, "'device_map': not done with a pretrained 'captioner'"),
        ({"objective": "contrastive"}, "'captioner': objective contrastive"),
        ({"tune": "lora", "lora_targets": "q_proj"}, r"no linear layers 'q_proj'; expected attention, feed_forward"),
        ({"tune": "lora", "prompt": {"chat": True}}, "'chat': the language model's tokenizer has no chat template"),
        ({"tune": "mapper"}, "has no mapper between its image encoder and its decoder"),
    ],
)
def test_what_a_captioner_does_not_take_is_told(keys, said, bases, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    assert run(data, tmp_path / "run", captioner=str(bases["blip"]), **keys) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_is_not_taken_apart_is_not_trained(data, tmp_path, capsys):
    assert run(data, tmp_path / "run", captioner=str(llava(tmp_path / "llava")), tune="lora") == 2
    assert "expected a captioner that is trained as it is, a BLIP, BLIP-2, GIT" in capsys.readouterr().err
