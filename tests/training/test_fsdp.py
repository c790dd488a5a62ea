"""A language model in shards on two processes trains as a whole one does, and is stored as one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError
from git_caption.training.main import main, parse_command
from git_caption.training.sharding import require_shardable
from git_caption.tsv.writer import TsvWriter
from tests import hub_cache, small_runs
from tests.small_captioner import looking_captioner

ROOT = Path(__file__).resolve().parents[2]
STILL = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}  # no dropout
ENCODER = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
}
FULL = {
    "language_model": {
        "name": "small",
        "architecture": {"model_type": "gpt2", "n_positions": 96, "n_embd": 16, "n_layer": 3, "n_head": 2, **STILL},
    },
    "vocab_size": 300,
    "tune": "full",
    "train_image_encoder": True,
    "accumulation": 2,
    "epochs": 2,
    "validate_every": 3,
    "decoding": {"max_new_tokens": 6},
    "max_grad_norm": 0.1,  # below the norms that there are
    "gradient_checkpointing": True,
}
RUNS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "stopped": FULL,
    "mapper": {
        **{"question_tsv": "questions.tsv", "val_question_tsv": "questions.tsv", "captions_per_image": 0},
        **{"best_by": "accuracy", "validate_every": 2},  # none is right, so that the first one is the best
    },
    "lora": {"tune": "lora", "lora_rank": 2, "lora_dropout": 0.0},
    "bfloat16": {"tune": "full", "precision": "bfloat16"},
    "language": {
        "objective": "language",
        **{name: FULL[name] for name in ("language_model", "vocab_size")},
        **dict.fromkeys(("image_encoder", "input_resolution")),
    },
}

SLOW = ("lora", "bfloat16", "language")  # run with --slow

# Runs as the processes of one torchrun, whose start takes longer than they do.
PROCESS = """
import sys
from accelerate.state import AcceleratorState
from git_caption.training import loop, sharding
from git_caption.training.main import main

step, shard = loop.TrainingRun._step, sharding.shard

def counted(objective, mesh):
    whole = sum(parameter.numel() for parameter in objective.parameters())
    shard(objective, mesh)
    held = sum(parameter.to_local().numel() for parameter in objective.parameters())
    print(f"rank {mesh.get_rank()} holds {held / whole:.2f}", flush=True)

sharding.shard = counted
for config in sys.argv[1:]:
    AcceleratorState._reset_state()  # one run after another may be of another precision
    if "stopped" in config:  # where a validation is due, which is then the first thing that it does
        loop.TrainingRun._step = lambda run, number, *rest: (*step(run, number, *rest)[:2], number == 3)
        assert main(["--config", config]) == 75
        loop.TrainingRun._step = step
    assert main(["--config", config]) == 0
"""


def written(folder: Path, out: Path, **values: Any) -> str:
    """The config file of a run in float32 of 16 pictures, four a step, that validates after each epoch."""
    told = {
        "output_dir": str(out),
        "image_tsv": str(folder / "train.img.tsv"),
        "caption_tsv": "short.tsv",
        "val_image_tsv": str(folder / "train.img.tsv"),
        "val_caption_tsv": str(folder / "short.tsv"),
        "val_images": 5,
        "image_encoder": {"name": "custom", "architecture": ENCODER, "output": "pooled"},
        "input_resolution": 32,
        "language_model": {"name": str(folder / "opt")},
        "save_every": 2,
        "epochs": 1,
        "loss_save_path": f"{out}.npy",
        **small_runs.HASTE,
        **values,
    }
    told |= {
        name: str(folder / told[name]) for name in ("caption_tsv", "question_tsv", "val_question_tsv") if name in told
    }
    out.parent.mkdir(exist_ok=True)
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory, request) -> Path:
    """All runs on two processes, in `two`."""
    home = tmp_path_factory.mktemp("fsdp")
    small_runs.scenes(home)
    hub_cache.language_model(home / "opt", "opt", dropout=0.0)
    question = {"question": hub_cache.TEXTS[2], "question_id": 1, "answers": [{"answer": hub_cache.TEXTS[3]}]}
    with TsvWriter(home / "questions.tsv") as writer:  # so few that a process has a batch without any
        for number, line in enumerate((home / "short.tsv").read_text().splitlines()):
            writer.write([line.split("\t")[0], json.dumps([question] if number % 3 == 0 else [])])
    names = [name for name in RUNS if name not in SLOW or request.config.getoption("--slow")]
    configs = [written(home, home / "two" / name, **{**RUNS[name], "bs": 2, "fsdp": True}) for name in names]
    (home / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*command, str(home / "process.py"), *configs],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (found.returncode, found.stderr.count("Warning")) == (0, 0), found.stderr
    for rank in (0, 1):
        assert found.stdout.count(f"rank {rank} holds 0.50\n") == len(names) + 1  # one went on
    return home


def lines(out: Path, name: str) -> list[dict[str, str]]:
    """Of a journal, without times and rates."""
    with open(out / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in rows]


@pytest.mark.parametrize("name", ["full", "mapper", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_losses_and_what_is_stored_are_those_of_one_process(name, home, tmp_path):
    if name == "lora":
        pytest.importorskip("peft")
    one, two = tmp_path / name, home / "two" / name
    AcceleratorState._reset_state()
    try:
        assert main(["--config", written(home, one, **RUNS[name])]) == 0
    finally:
        AcceleratorState._reset_state()
    tolerance = 2e-2 if name == "bfloat16" else 1e-4
    np.testing.assert_allclose(np.load(f"{two}.npy"), np.load(f"{one}.npy"), atol=tolerance)
    for ours, theirs in zip(lines(two, "validation.csv"), lines(one, "validation.csv"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), abs=tolerance)
    files = [sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) for out in (one, two)]
    assert files[0] == files[1]
    for file in files[0]:
        if file.suffix == ".safetensors":
            with safe_open(one / file, "pt") as ours, safe_open(two / file, "pt") as theirs:
                assert list(ours.keys()) == list(theirs.keys())
                for key in ours.keys():  # noqa: SIM118 # it is no mapping
                    given = theirs.get_tensor(key)
                    torch.testing.assert_close(given, ours.get_tensor(key), rtol=0, atol=10 * tolerance)
        elif file.name == "config.json":
            assert (one / file).read_bytes() == (two / file).read_bytes()
    if name != "language":
        assert Captioner.load(two, device="cpu").caption([Image.new("RGB", (40, 40), "red")])


def test_a_run_that_is_stopped_goes_on_to_the_same_end(home):
    whole, stopped = home / "two" / "full", home / "two" / "stopped"
    for name in ("journal.csv", "validation.csv", "validation_captions.csv"):
        assert lines(stopped, name) == lines(whole, name)
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (stopped / "last").exists()


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"objective": "contrastive"}, "'fsdp': shards what objective caption or language trains"),
        ({"fusion": "cross_attention"}, "'fsdp': layers of cross_attention are not put in shards"),
        ({"language_model": {"name": "gpt2", "quantization": "8bit"}}, "a language model in 8 or 4 bits is not put"),
        ({"optimizer": "adamw_8bit"}, "'optimizer': 'adamw_8bit' does not take shards"),
        ({"device_split": "0:1,1"}, "'fsdp' and 'device_split' exclude each other"),
        ({"compile": True}, "'compile': not of what is in shards"),
        ({"precision": "float16"}, "'precision': float16 does not go with 'fsdp'"),
    ],
)
def test_what_does_not_go_with_shards_is_found_before_anything_is_loaded(values, fault, tmp_path):
    for name in ("train.img.tsv", "short.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError) as raised:
        parse_command(["--config", written(tmp_path, tmp_path / "out", fsdp=True, **values)])
    assert fault in str(raised.value)


def test_one_process_and_checkpoints_that_cannot_be_put_in_shards_are_told(tmp_path, capsys):
    small_runs.scenes(tmp_path)
    assert main(["--config", written(tmp_path, tmp_path / "out", fsdp=True)]) == 2
    assert (
        "error: 'fsdp': shards are shared out to several processes, and this is the only one" in capsys.readouterr().err
    )
    looking_captioner(tmp_path / "lm").save(tmp_path / "looking")
    parts = dict.fromkeys(("image_encoder", "language_model", "input_resolution"))
    config = written(tmp_path, tmp_path / "out", fsdp=True, init_from=str(tmp_path / "looking"), **parts)
    with pytest.raises(UsageError, match="looking has layers of cross-attention, which are not put in shards"):
        require_shardable(parse_command(["--config", config]))
