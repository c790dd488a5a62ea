"""A language model split over devices trains as the undivided one does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from git_caption.errors import UsageError
from git_caption.jobs.shapes import make
from git_caption.params.shapes import ShapesDataParams
from git_caption.training.main import main, parse_command
from tests import hub_cache
from tests.small_captioner import small_captioner

CPU_AND_DISK = "cpu:1,disk"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make(ShapesDataParams(out_dir=str(home / "scenes"), train=16, test=2))
    hub_cache.language_model(home / "opt", "opt", max_position_embeddings=256)
    small_captioner(home / "gpt2").save(home / "stored")
    return home


def line(home: Path, out: Path, *flags: str) -> list[str]:
    encoder = {"embed_dim": 12, "quick_gelu": True}
    encoder["vision_cfg"] = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64}
    return [
        *("--image_encoder", json.dumps({"name": "custom", "architecture": encoder, "output": "pooled"})),
        *("--input_resolution", "32", "--mapper.type", "mlp", "--language_model.name", str(home / "opt")),
        *("--image_tsv", str(home / "scenes/train.img.tsv"), "--output_dir", str(out), "--bs", "4"),
        *("--caption_tsv", str(home / "scenes/train.caption.tsv"), "--lr", "1e-2", "--warmup_steps", "0"),
        *("--epochs", "1"),
        *("--loss_save_path", f"{out}.npy", "--device", "cpu", "--num_workers", "0", *flags),
    ]


WAYS = {"whole": [], "split": ["--device_split", CPU_AND_DISK], "disk": ["--device_map", "{'': 'disk'}"]}


def agree(folder: Path, *parts: str) -> None:
    """Losses and what was trained are the same in all ways."""
    whole, *others = (np.load(f"{folder / name}.npy") for name in WAYS)
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-6)  # worst seen: none
    for part in parts:
        trained, *copies = (load_file(folder / name / part) for name in WAYS)
        for copy in copies:
            torch.testing.assert_close(copy, trained, rtol=0, atol=1e-6)


def test_losses_and_weights_are_those_of_the_undivided_model(home, tmp_path):
    for name, way in WAYS.items():
        assert main(line(home, tmp_path / name, *way)) == 0
    agree(tmp_path, "model.safetensors")


def test_an_adapter_is_trained_beside_offloaded_weights(home, tmp_path):
    began = line(home, tmp_path / "began", "--tune", "lora", "--device_split", CPU_AND_DISK)
    assert main(began) == 0
    told = began[began.index("--image_tsv") : began.index("--device_split")]
    for name, way in WAYS.items():
        out = ["--output_dir", str(tmp_path / name), "--loss_save_path", f"{tmp_path / name}.npy"]
        flags = ["--init_from", str(tmp_path / "began"), "--gradient_checkpointing", "True", *told, *out]
        assert main([*flags, *way]) == 0
    agree(tmp_path, "model.safetensors", "adapter/adapter_model.safetensors")


def test_offloaded_weights_are_neither_trained_nor_stored(home, tmp_path, capsys):
    assert main(line(home, tmp_path / "a", "--tune", "full", "--device_split", CPU_AND_DISK)) == 2
    assert "more tensors of the language model are offloaded, and cannot be trained there" in capsys.readouterr().err
    told = line(home, tmp_path / "b", "--device_split", CPU_AND_DISK)[6 + 2 :]
    assert main(["--init_from", str(home / "stored"), *told]) == 2
    assert "the checkpoint is to store it" in capsys.readouterr().err


def test_gpus_that_are_not_there_and_more_processes_are_told(home, tmp_path, capsys, monkeypatch):
    assert main(line(home, tmp_path / "a", "--device_split", "97:1,98")) == 2
    assert "there is no GPU 97" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(line(home, tmp_path / "a", "--device_map", "auto")) == 2
    assert "'device_map': the language model is spread over the devices of one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--device_split", "1,2"], "'device_split': expected devices"),
        (["--device_split", "1:1,2", "--device_map", "auto"], "exclude each other"),
        (["--max_memory", "{'cpu': '1GB'}"], "bounds a 'device_map' and there is none"),
        (["--device_map", "auto", "--compile", "True"], "'compile': not of a language model on several devices"),
    ],
)
def test_faults_are_found_before_anything_is_loaded(flags, fault, home, tmp_path):
    with pytest.raises(UsageError) as raised:
        parse_command(line(home, tmp_path / "out", *flags))
    assert fault in str(raised.value)


def test_one_process_of_torchrun_trains_a_split_model(home, tmp_path, monkeypatch, capsys):
    AcceleratorState._reset_state(reset_partial_state=True)
    launcher = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29578"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert main(line(home, tmp_path / "out", "--device_split", CPU_AND_DISK)) == 0, capsys.readouterr().err
    assert {name: os.environ[name] for name in launcher} == launcher
