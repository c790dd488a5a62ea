"""How a run is shared out, stopped and gone on with: on small scenes and a network of a few thousand weights."""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from git_caption.captioner.captioner import Captioner, Features, Identity
from git_caption.errors import UsageError
from git_caption.jobs.features import extract
from git_caption.jobs.shapes import make
from git_caption.params.decoding import DecodingParams
from git_caption.params.features import ExtractParams
from git_caption.params.schema import parse
from git_caption.params.shapes import ShapesDataParams
from git_caption.pipeline.lock import locked
from git_caption.training import state
from git_caption.training.main import main
from git_caption.tsv.rows import ImageRow
from git_caption.tsv.writer import TsvWriter

ROOT = Path(__file__).resolve().parents[2]
VISION = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
}
GPT2 = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}
STILL = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}  # no dropout
STEPS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make(ShapesDataParams(out_dir=str(folder), train=64, test=4))
    return folder


def written(shapes: Path, out: Path, **changes: Any) -> str:
    """The config file of a run of 24 steps of 8 pictures, with dropout and a validation every 7 steps and epoch."""
    values = {
        "output_dir": str(out),
        "image_tsv": str(shapes / "train.img.tsv"),
        "caption_tsv": str(shapes / "train.caption.tsv"),
        "image_encoder": {"name": "custom", "architecture": VISION, "output": "grid"},
        "language_model": {"name": "small", "architecture": GPT2},
        "input_resolution": 32,
        "decoding": {"max_new_tokens": 6},
        "val_image_tsv": str(shapes / "test.img.tsv"),
        "val_caption_tsv": str(shapes / "test.caption.tsv"),
        "validate_every": 7,
        "vocab_size": 300,
        "train_image_encoder": True,
        "tune": "full",
        "bs": 8,
        "epochs": STEPS / 8,
        "lr": 1e-2,
        "warmup_steps": 2,
        "num_workers": 0,
        "log_every": 2,
        "save_every": 5,
        "device": "cpu",
        "loss_save_path": f"{out}.npy",
        **changes,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(values))
    return str(path)


def journal(out: Path, name: str = "journal.csv") -> list[dict[str, str]]:
    """The lines of a journal, time and rate columns aside."""
    with open(out / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in ("images_per_second", "seconds")} for row in rows]


def same(out: Path, other: Path) -> None:
    """Two runs ended alike: journals, and every weight."""
    for name in ("journal.csv", "validation.csv", "validation_captions.csv"):
        assert journal(out, name) == journal(other, name)
    assert np.array_equal(np.load(f"{out}.npy"), np.load(f"{other}.npy"))
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert not (out / "last").exists()


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(["--config", written(data, out)]) == 0
    lines = journal(out)
    assert [line["step"] for line in lines] == [str(step) for step in range(2, STEPS + 1, 2)]
    assert [int(line["step"]) for line in journal(out, "validation.csv")] == [7, 8, 14, 16, 21, 24]
    steps = np.load(f"{out}.npy")
    assert steps.dtype == np.float64 and len(steps) == STEPS
    assert [float(line["loss"]) for line in lines] == pytest.approx(steps.reshape(-1, 2).mean(1), abs=1e-5)
    assert float(lines[-1]["loss"]) < float(lines[0]["loss"]) - 0.5
    return out


def test_a_run_that_ends_at_any_step_goes_on_to_the_same_end(data, undisturbed, tmp_path, monkeypatch, capsys):
    """After each save it ends anew, at a step where nothing has been saved for a while."""
    out = tmp_path / "run"
    config = written(data, out)
    from git_caption.training import loop

    take = loop.TrainingRun._step
    for last in (3, 9, 14, 15, 22):

        def ends(run, number, *rest, last=last):
            if number == last + 1:
                raise KeyboardInterrupt
            return take(run, number, *rest)

        monkeypatch.setattr(loop.TrainingRun, "_step", ends)
        assert main(["--config", config]) == 75
        assert [path.name for path in sorted((out / "last").glob("[0-9]*"))] == [
            f"{step:08d}.pt" for step in range(5, last + 1, 5)
        ][-2:] or last == 3
    monkeypatch.setattr(loop.TrainingRun, "_step", take)
    capsys.readouterr()
    assert main(["--config", config]) == 0
    assert f"going on after step 20 of {STEPS}, from {out}/last" in capsys.readouterr().out
    same(out, undisturbed)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"tune": "lora", "lora_rank": 4}, "peft"),
        ({"optimizer": "adamw_8bit"}, "bitsandbytes"),
        ({"fusion": "cross_attention"}, "torch"),
    ],
)
def test_so_does_one_with_lora_with_cross_attention_or_with_an_optimiser_in_8_bits(
    changes, needs, data, tmp_path, monkeypatch
):
    pytest.importorskip(needs)
    whole, out = tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    assert main(["--config", written(data, whole, **changes)]) == 0
    assert losses(whole)[-1] < losses(whole)[0]
    from git_caption.training import loop

    take = loop.TrainingRun._step

    def ends(run, number, *rest):
        if number == 14:
            raise KeyboardInterrupt
        return take(run, number, *rest)

    monkeypatch.setattr(loop.TrainingRun, "_step", ends)
    assert main(["--config", written(data, out, **changes)]) == 75
    monkeypatch.setattr(loop.TrainingRun, "_step", take)
    assert main(["--config", written(data, out, **changes)]) == 0

    same(out, whole)
    adapters = [sorted((folder / "adapter").glob("*")) for folder in (whole, out)]
    assert bool(adapters[0]) == ("tune" in changes)
    assert [path.read_bytes() for path in adapters[0]] == [path.read_bytes() for path in adapters[1]]


def test_a_run_stopped_where_a_validation_is_due_makes_it_when_it_goes_on(data, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "run"
    from git_caption.training import loop

    take = loop.TrainingRun._step
    monkeypatch.setattr(
        loop.TrainingRun, "_step", lambda run, number, *rest: (*take(run, number, *rest)[:2], number == 7)
    )
    assert main(["--config", written(data, out)]) == 75
    assert journal(out, "validation.csv") == []
    monkeypatch.setattr(loop.TrainingRun, "_step", take)
    assert main(["--config", written(data, out)]) == 0
    same(out, undisturbed)


def test_validation_does_not_disturb_the_steps(data, undisturbed, tmp_path):
    out = tmp_path / "run"
    nothing = dict.fromkeys(("val_image_tsv", "val_caption_tsv", "validate_every"))
    assert main(["--config", written(data, out, **nothing)]) == 0
    assert journal(out) == journal(undisturbed)
    assert not (out / "validation.csv").exists()


@pytest.mark.runs(30)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(data, undisturbed, tmp_path, runs):
    source = random.Random(30)
    met = 0
    for number in range(runs):
        out = tmp_path / str(number) / "run"
        command = [sys.executable, str(ROOT / "train.py"), "--config", written(data, out, num_workers=number % 2)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        while not (out / "last").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(source.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        met += (out / "last").exists()
        if (out / "last").exists():
            assert main(["--config", written(data, out)]) == 0
        same(out, undisturbed)
    assert met >= 0.8 * runs, f"{met} of {runs} kills met a run under way"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_first(number, data, undisturbed, tmp_path):
    out = tmp_path / "run"
    config = written(data, out, save_every=1000)
    slowly = """
import sys, time
from git_caption.training import loop, main
step = loop.TrainingRun._step
loop.TrainingRun._step = lambda *given: (time.sleep(0.2), step(*given))[1]
sys.exit(main.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", slowly, "--config", config]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("step 2/") for line in iter(process.stdout.readline, ""))
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75
    assert error.startswith(f"error: stopped by {number.name} after step ") and error.count("\n") == 1
    assert main(["--config", config]) == 0
    same(out, undisturbed)


def test_saves_of_other_settings_are_refused_and_may_be_dropped(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    saves = state.Saves(out, {"lr": 1e-2, "bs": 8}, keep=1)
    saves.write(5, {"step": 5})
    assert main(["--config", written(data, out)]) == 2
    assert "holds the saves of an unfinished run with other settings (" in capsys.readouterr().err
    assert main(["--config", written(data, out), "--resume", "none"]) == 0
    assert not (out / "last").exists()


def test_saves_written_before_a_key_was_known_are_read(tmp_path):
    state.Saves(tmp_path, {"lr": 1e-2}, keep=1).write(5, {"step": 5})
    assert state.Saves(tmp_path, {"lr": 1e-2, "new_key": None}, keep=1).read() == {"step": 5}
    with pytest.raises(UsageError, match="new_key: None then, 3 now"):
        state.Saves(tmp_path, {"lr": 1e-2, "new_key": 3}, keep=1).read()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_disk_that_is_full_leaves_the_save_before(error, data, undisturbed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    write = torch.save

    def full(content, file):
        if content["step"] == 10:
            file.write(b"half of it")
            raise error
        write(content, file)

    monkeypatch.setattr(torch, "save", full)
    assert main(["--config", written(data, out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot save to {out}/last: ") and "the save of step 5 is kept" in said
    assert [path.name for path in (out / "last").glob("[!b]*")] == ["00000005.pt"]
    monkeypatch.setattr(torch, "save", write)
    assert main(["--config", written(data, out)]) == 0
    same(out, undisturbed)


def test_a_damaged_save_is_named(data, tmp_path, capsys):
    out = tmp_path / "run"
    (out / "last").mkdir(parents=True)
    (out / "last" / "00000005.pt").write_bytes(b"nothing of the kind")
    assert main(["--config", written(data, out)]) == 1
    assert f"error: {out}/last/00000005.pt cannot be read: " in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(data, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    with locked(out / "lock", out):
        assert main(["--config", written(data, out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}: another run is writing this output (process {os.getpid()} on ")
    assert not list(out.iterdir())


def losses(out: Path) -> list[float]:
    return [float(line["loss"]) for line in journal(out)]


STILL_RUN = {"language_model": {"name": "small", "architecture": {**GPT2, **STILL}}, "log_every": 1, "epochs": 1}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run without dropout whose steps are one batch of 8 pictures."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["--config", written(data, out, **STILL_RUN)]) == 0
    return out


@pytest.mark.parametrize(("bs", "accumulation"), [(4, 2), (1, 8)])
def test_accumulated_steps_are_steps_of_the_whole(bs, accumulation, data, whole, tmp_path):
    out = tmp_path / "run"
    assert main(["--config", written(data, out, **STILL_RUN, bs=bs, accumulation=accumulation)]) == 0
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)


def test_two_processes_of_half_the_batch_are_one_of_the_whole(data, whole, tmp_path):
    out = tmp_path / "run"
    config = written(data, out, **STILL_RUN, bs=4)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*command, str(ROOT / "train.py"), "--config", config],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    ours, theirs = (journal(run, "validation.csv")[-1] for run in (out, whole))
    assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), abs=1e-4)
    ours, theirs = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-4), name


def test_pictures_that_cannot_be_read_are_skipped_counted_and_listed(data, tmp_path, capsys):
    images = tmp_path / "img.tsv"
    broken = {3: "scene3", 40: "scene40"}
    with TsvWriter(images) as writer:
        for row, line in enumerate((data / "train.img.tsv").read_text().splitlines()):
            key, image = line.split("\t")
            broken |= {row: key} if row in broken else {}
            writer.write(ImageRow(key, b"no picture").columns() if row in broken else [key, image])
    out = tmp_path / "run"
    changes = {"image_tsv": str(images), "epochs": 2}
    assert main(["--config", written(data, out, **changes)]) == 0
    assert "2 pictures skipped, or captions of theirs, listed in skipped.tsv" in capsys.readouterr().out
    listed = [line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines()]
    assert [line[:2] for line in listed] == [[str(row + 1), key] for row, key in sorted(broken.items())]
    assert all("not an image" in line[2] for line in listed)
    assert main(["--config", written(data, tmp_path / "other", **changes, max_errors=1)]) == 1
    assert (
        "2 pictures, or captions of theirs, could not be used, 'max_errors' allows 1; the first: "
        in capsys.readouterr().err
    )


def test_a_loss_that_is_no_number_names_the_pictures_of_its_batch(data, tmp_path, capsys):
    assert main(["--config", written(data, tmp_path / "run", lr=1e30, warmup_steps=0)]) == 1
    said = capsys.readouterr().err
    keys = {line.split("\t")[0] for line in (data / "train.img.tsv").read_text().splitlines()}
    assert (said.startswith("error: the ") and "not finite" in said) or "is nan" in said
    assert "at step " in said and any(repr(key) in said for key in keys)


def test_bfloat16_computes_alike_and_trains_float32_weights(data, whole, tmp_path):
    out = tmp_path / "run"
    config = written(data, out, **STILL_RUN, precision="bfloat16")
    # in a process of its own, for accelerate keeps the precision of the first run of a process
    subprocess.run([sys.executable, str(ROOT / "train.py"), "--config", config], capture_output=True, check=True)
    assert losses(out) == pytest.approx(losses(whole), rel=0.05)
    assert losses(out) != pytest.approx(losses(whole), abs=1e-6)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float32}


def test_float16_needs_a_gpu(data, tmp_path, capsys):
    assert main(["--config", written(data, tmp_path / "run", precision="float16")]) == 2
    assert "'precision': float16 trains on a GPU only, not on cpu" in capsys.readouterr().err


@pytest.mark.parametrize(("stored_as", "within"), [("float32", 1e-4), ("float16", 1e-3)])
def test_training_from_features_is_training_from_their_images(stored_as, within, data, whole, tmp_path):
    changes = {"image_encoder": None, "language_model": None, "input_resolution": None, "init_from": str(whole)}
    changes |= {"train_image_encoder": False, "epochs": 1, "log_every": 1}
    cache = tmp_path / "features.safetensors"
    keys = {
        "model_path": str(whole),
        "image_tsv": str(data / "train.img.tsv"),
        "stored_as": stored_as,
        "out": str(cache),
    }
    extract(parse(ExtractParams, keys, "test"))
    assert main(["--config", written(data, tmp_path / "images", **changes)]) == 0
    assert main(["--config", written(data, tmp_path / "features", **changes, features=str(cache))]) == 0
    assert losses(tmp_path / "features") == pytest.approx(losses(tmp_path / "images"), abs=within)
    assert losses(tmp_path / "features")[-1] < losses(tmp_path / "features")[0]


def test_features_that_do_not_belong_to_the_run_are_refused(data, whole, undisturbed, tmp_path, capsys):
    cache = tmp_path / "features.safetensors"
    keys = {"model_path": str(undisturbed), "image_tsv": str(data / "test.img.tsv"), "out": str(cache)}
    extract(parse(ExtractParams, keys, "test"))
    changes = {"image_encoder": None, "language_model": None, "input_resolution": None, "features": str(cache)}
    trained = {**changes, "init_from": str(undisturbed)}
    assert main(["--config", written(data, tmp_path / "trained", **trained)]) == 2
    assert "'features': the image encoder is trained, so that its features change" in capsys.readouterr().err
    other = {**changes, "init_from": str(whole), "train_image_encoder": False}
    assert main(["--config", written(data, tmp_path / "other", **other)]) == 2
    assert f"{cache}: not the features of this run: weights " in capsys.readouterr().err
    fewer = {**trained, "train_image_encoder": False}
    assert main(["--config", written(data, tmp_path / "fewer", **fewer)]) == 1
    assert f"{cache} has features of 4 rows, and the data" in capsys.readouterr().err


def test_a_pickle_of_clipcaps_is_data_and_features_at_once(data, tmp_path, capsys):
    captions = [{"image_id": row, "caption": f"number {row % 4}", "clip_embedding": row} for row in range(32)]
    embeddings = torch.eye(4, 16).repeat(8, 1)  # the number is to be seen
    path = tmp_path / "oscar_split_train.pkl"
    path.write_bytes(pickle.dumps({"clip_embedding": embeddings, "captions": captions}))
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    changes = {"data": str(path), "image_tsv": None, "caption_tsv": None, "mapper": {"type": "mlp", "prefix_length": 2}}
    changes |= {"image_encoder": encoder, "train_image_encoder": False, "epochs": 40, "warmup_steps": 10}
    changes |= {"val_data": str(path), "val_image_tsv": None, "val_caption_tsv": None, "validate_every": 8}
    out = tmp_path / "run"
    assert main(["--config", written(data, out, **changes)]) == 0
    said = capsys.readouterr().out
    assert "warning: the validation set is what is trained on;" in said
    assert "only 1 different captions for 32 pictures" in said  # before it has learnt to look
    end = {name: float(value) for name, value in journal(out, "validation.csv")[-1].items() if value}
    assert end["distinct"] == 4 / 32 and end["shuffled_loss"] > end["loss"] + 0.5
    assert [line["caption"] for line in journal(out, "validation_captions.csv")[-8:]] == [
        line["reference"] for line in journal(out, "validation_captions.csv")[-8:]
    ]
    captioner = Captioner.load(out, device="cpu")
    features = Features(embeddings[:4, None], torch.ones(4, 1, dtype=torch.bool))
    found = captioner.generate(features, [""] * 4, captioner.decoding(DecodingParams(), "caption"), [Identity("a")] * 4)
    assert [texts[0].text for texts in found] == [f"number {row}" for row in range(4)]
    wider = {**changes, "image_encoder": {**encoder, "architecture": {**VISION, "embed_dim": 24}}}
    assert main(["--config", written(data, tmp_path / "wider", **wider)]) == 2
    assert (
        f"{path}: its features have a width of 16, those of image encoder 'custom' one of 24" in capsys.readouterr().err
    )
