"""Validation during a run: what it computes, which weights it keeps, what is reported."""

from __future__ import annotations

import csv
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from git_caption.captioner.captioner import Captioner
from git_caption.jobs.shapes import make
from git_caption.metrics import coco
from git_caption.model.git import TextBatch
from git_caption.params.schema import faults
from git_caption.params.shapes import ShapesDataParams
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.validation import ValidationParams
from git_caption.text.tokenizer import encode_target
from git_caption.training import trackers
from git_caption.training.best import Best
from git_caption.training.main import main
from git_caption.training.validation import Captioned, Share, together
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import CaptionRow, parse_caption_row, parse_image_row
from git_caption.tsv.writer import TsvWriter

VISION = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
}
GPT2 = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}
COLUMNS = ["step", "epoch", "loss", "shuffled_loss", "cider", "bleu_4", "distinct", "accuracy", "seconds"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Shapes to train on, and 6 more of which each has one caption, in other words."""
    folder = tmp_path_factory.mktemp("shapes")
    make(ShapesDataParams(out_dir=str(folder), train=32, test=6))
    with TsvWriter(folder / "val.caption.tsv") as writer:
        for row, columns in enumerate(lines(folder / "test.caption.tsv")):
            caption = parse_caption_row(columns, "").captions[0]
            writer.write(CaptionRow(columns[0], (f"{caption} {'again ' * row}".strip(),)).columns())
    return folder


def lines(path: Path) -> list[list[str]]:
    file = TsvFile(path)
    return [file.columns(row) for row in range(len(file))]


def config(shapes: Path, out: Path, **changes: Any) -> str:
    values = {
        "output_dir": str(out),
        "image_tsv": str(shapes / "train.img.tsv"),
        "caption_tsv": str(shapes / "train.caption.tsv"),
        "val_image_tsv": str(shapes / "test.img.tsv"),
        "val_caption_tsv": str(shapes / "val.caption.tsv"),
        "image_encoder": {"name": "custom", "architecture": VISION, "output": "grid"},
        "language_model": {"name": "small", "architecture": GPT2},
        "input_resolution": 32,
        "decoding": {"max_new_tokens": 8},
        "vocab_size": 300,
        "train_image_encoder": True,
        "tune": "full",
        "bs": 4,
        "lr": 1e-2,
        "warmup_steps": 2,
        "num_workers": 0,
        "log_every": 4,
        "device": "cpu",
        **changes,
    }
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(values))
    return str(path)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_gets_no_better_ends_with_its_best_weights(data, tmp_path, capsys):
    """What the checkpoint gives, picture by picture, are the numbers of the best line of `validation.csv`."""
    out = tmp_path / "run"
    changes = {"epochs": 60, "patience": 2, "validate_every": 6, "schedule": "constant"}
    assert main(["--config", config(data, out, **changes)]) == 0
    rows = table(out / "validation.csv")
    assert list(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == [
        n for n in range(int(rows[-1]["step"]) + 1) if n and (n % 6 == 0 or n % 8 == 0)
    ]
    best = min(rows, key=lambda row: float(row["loss"]))
    assert rows.index(best) == len(rows) - 3
    said = capsys.readouterr().out
    assert f"weights of the best validation, at step {best['step']}: loss {float(best['loss']):.4f} (" in said
    assert f"\n{rows[-1]['step']} steps in " in said
    assert not (out / "last").exists() and (out / "loss.png").exists()

    captioner = Captioner.load(out, device="cpu")
    images = [parse_image_row(columns, "").image for columns in lines(data / "test.img.tsv")]
    keys = [columns[0] for columns in lines(data / "test.img.tsv")]
    texts = [parse_caption_row(columns, "").captions[0] for columns in lines(data / "val.caption.tsv")]

    def loss(pictures: list[int]) -> float:
        found, count = [], 0
        for picture, text in zip(pictures, texts, strict=True):
            target = encode_target(captioner.tokenizer, text, after_prompt=False)
            features = captioner.encode(captioner.pixels(images[picture]))
            found.append(-float(captioner.network.token_logprobs(features, TextBatch([[]], [target])).sum()))
            count += len(target)
        return math.fsum(found) / count

    assert loss(list(range(6))) == pytest.approx(float(best["loss"]), abs=1e-4)
    order = np.random.default_rng(0).permutation(6)
    others = {
        int(row): int(other)
        for part in (order[:3], order[3:])
        for row, other in zip(part, np.roll(part, 1), strict=True)
    }
    assert loss([others[row] for row in range(6)]) == pytest.approx(float(best["shuffled_loss"]), abs=1e-4)

    captions = dict(zip(keys, captioner.caption(images, temperature=0), strict=True))
    references = {key: [text] for key, text in zip(keys, texts, strict=True)}
    scores = coco.score(captions, references, ("CIDEr", "Bleu"), tokenizer="python").overall
    assert float(best["cider"]) == pytest.approx(scores["CIDEr"], abs=1e-5)
    assert float(best["bleu_4"]) == pytest.approx(scores["Bleu_4"], abs=1e-5)
    assert float(best["distinct"]) == pytest.approx(len(set(captions.values())) / 6, abs=1e-5)
    shown = [row for row in table(out / "validation_captions.csv") if row["step"] == best["step"]]
    assert [row["key"] for row in shown] == [keys[row] for row in order]
    assert {row["key"]: " ".join(row["caption"].split()) for row in shown} == {
        k: " ".join(v.split()) for k, v in captions.items()
    }
    assert {row["key"]: [row["reference"]] for row in shown} == references


def share(captions: list[str], references: list[str], losses: tuple[float, float]) -> Share:
    pairs = zip(captions, references, strict=True)
    captioned = {n: Captioned(f"key{n}", caption, (text,)) for n, (caption, text) in enumerate(pairs)}
    return Share(list(losses), [10, 10], captioned, [])


def test_captions_that_do_not_tell_pictures_apart_and_losses_that_do_not_look_are_warned_of():
    texts = [f"a picture with number {number}" for number in range(30)]
    good = together([share(texts, texts, (20.0, 30.0))])
    assert (good.loss, good.shuffled_loss, good.distinct, good.notes) == (2.0, 3.0, 1.0, ())
    assert good.bleu_4 == pytest.approx(1.0) and [one.key for one in good.shown] == [f"key{n}" for n in range(8)]
    bad = together([share(["a picture", "a photo", "an image"] * 10, texts, (20.0, 20.01))])
    assert [note.split(":")[0] for note in bad.notes] == ["warning", "warning"]
    assert (
        "with the pictures of other rows the loss is 2.0010, hardly higher than with the own ones (2.0000)"
        in bad.notes[0]
    )
    assert "only 3 different captions for 30 pictures" in bad.notes[1]
    alike = together([share(["a cat"] * 30, ["a cat"] * 30, (20.0, 30.0))])
    assert alike.notes == ()  # the references are no different


@pytest.mark.parametrize(
    ("every", "per_epoch", "steps"),
    [(None, 4, [4, 8, 12]), (3, 4, [3, 4, 6, 8, 9, 12]), (5, 4, [5, 10]), (5, 1, [5, 10])],
)
def test_validations_fall_on_epochs_and_on_every_so_many_steps(every, per_epoch, steps):
    params = ValidationParams(val_split="val", validate_every=every)
    assert [step for step in range(1, 13) if params.falls_on(step, per_epoch)] == steps


def test_the_best_is_kept_until_a_better_one():
    best = Best()
    assert [best.take(step, value, "") for step, value in ((1, -3.0), (2, -2.0), (3, -2.0), (4, float("nan")))] == [
        True,
        True,
        False,
        False,
    ]
    assert (best.step, best.value, best.stale, best.latest) == (2, -2.0, 2, 4)


def test_a_contrastive_run_is_validated_by_its_loss(data, tmp_path):
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    changes = {"objective": "contrastive", "image_encoder": encoder, "bs": 8, "epochs": 2, "language_model": None}
    changes |= {"train_image_encoder": False, "tune": "mapper", "decoding": None, "val_images": 5}
    out = tmp_path / "run"
    assert main(["--config", config(data, out, **changes)]) == 0
    rows = table(out / "validation.csv")
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(0 < float(row["loss"]) < 3 and row["shuffled_loss"] == row["cider"] == "" for row in rows)
    assert not (out / "validation_captions.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_image_tsv": None, "val_caption_tsv": None, "patience": 3}, "'patience': there is no validation set"),
        ({"val_image_tsv": None, "val_caption_tsv": None, "best_by": "cider"}, "'best_by': there is no validation set"),
        ({"val_caption_tsv": None}, "missing key 'val_caption_tsv'"),
        ({"val_split": "val"}, "'val_split' and 'val_image_tsv' exclude each other"),
        (
            {"val_image_tsv": None, "val_caption_tsv": None, "val_split": "val"},
            "'val_split': a part of 'data' or 'val_data'",
        ),
        ({"val_features": __file__}, "'val_features': the image encoder is trained"),
        ({"report_to": "tensorboard,mlflow"}, "'report_to': expected one or several of none, tensorboard, wandb"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, message, data, tmp_path):
    values = json.loads(Path(config(data, tmp_path / "run", **changes)).read_text())
    assert any(message in fault for fault in faults(TrainingParams, values, "test"))


def test_a_split_of_the_data_is_validated_on_and_its_broken_pictures_are_left_out(data, tmp_path, capsys):
    table_path = tmp_path / "table.csv"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with open(table_path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for number, columns in enumerate(lines(data / "train.img.tsv")):
            (pictures / f"{number}.png").write_bytes(
                parse_image_row(columns, "").image if number != 3 else b"no picture"
            )
            writer.writerow([f"pictures/{number}.png", f"picture {number}", "val" if number < 8 else "train"])
    none = dict.fromkeys(("image_tsv", "caption_tsv", "val_image_tsv", "val_caption_tsv"))
    changes = {**none, "data": str(table_path), "val_split": "val", "val_images": None}
    assert main(["--config", config(data, tmp_path / "run", **changes)]) == 0
    said = capsys.readouterr().out
    assert "1 pictures of the validation set cannot be read; the first: " in said and "trained on" not in said
    shown = {row["key"] for row in table(tmp_path / "run" / "validation_captions.csv")}
    assert len(shown) == 7 and not any("3.png" in key for key in shown)
    assert main(["--config", config(data, tmp_path / "other", **changes, on_error="raise")]) == 1
    assert "3.png" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "cure"), [("tensorboard", "'git-caption[tensorboard]'"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    name, cure, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trackers, "find_spec", lambda asked: None if asked == name else find_spec(asked))
    assert main(["--config", config(data, tmp_path / "run"), "--report_to", name]) == 2
    assert f"error: 'report_to': {name} is not installed: pip install {cure}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_losses_of_the_journal_also_after_a_stop(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from git_caption.training import loop

    out = tmp_path / "run"
    path = config(data, out, report_to="tensorboard", log_every=1, save_every=3)
    take = loop.TrainingRun._step

    def ends(run, number, *rest):
        if number == 6:
            raise KeyboardInterrupt
        return take(run, number, *rest)

    monkeypatch.setattr(loop.TrainingRun, "_step", ends)
    assert main(["--config", path]) == 75
    monkeypatch.setattr(loop.TrainingRun, "_step", take)
    assert main(["--config", path]) == 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    rows = table(out / "journal.csv")
    assert [step for step, _ in found] == [int(row["step"]) for row in rows] == list(range(1, 9))
    assert [value for _, value in found] == pytest.approx([float(row["loss"]) for row in rows], abs=1e-4)
    assert [event.step for event in events.Scalars("validation/cider")] == [8]


def test_wandb_offline_keeps_what_is_reported_to_itself(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    assert main(["--config", config(data, out, report_to="wandb")]) == 0
    assert list(out.glob("wandb/offline-run-*/*.wandb"))
