"""`train.py` on a small set of shapes: what it writes, what it keeps frozen, what it refuses."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from git_caption.errors import UsageError
from git_caption.jobs.shapes import make
from git_caption.model.clip_table import DESCRIPTION
from git_caption.model.language import build_language_model
from git_caption.params.model import LanguageModelConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.text.tokenizer import load_tokenizer
from git_caption.training.main import main, parse_command
from git_caption.tsv.rows import CaptionRow, ImageRow
from git_caption.tsv.writer import TsvWriter
from tests import hub_cache

ROOT = Path(__file__).parents[2]
VISION = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
}
GPT2 = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make(ShapesDataParams(out_dir=str(folder), train=64, test=4))
    return folder


def _config(data, out, **changes):
    values = {
        "output_dir": str(out),
        "image_tsv": str(data / "train.img.tsv"),
        "caption_tsv": str(data / "train.caption.tsv"),
        "question_tsv": str(data / "train.question.tsv"),
        "image_encoder": {"name": "custom", "architecture": VISION, "output": "grid"},
        "mapper": {"type": "linearLn"},
        "language_model": {"name": "small", "architecture": GPT2},
        "prompt": {"question": "question: {question} answer:"},
        "input_resolution": 32,
        "vocab_size": 300,
        "train_image_encoder": True,
        "tune": "full",
        "bs": 16,
        "lr": 1e-2,
        "warmup_steps": 2,
        "num_workers": 0,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    path = Path(out).parent / f"{Path(out).name}.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_training_lowers_the_loss_and_leaves_a_checkpoint_that_captions(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["--config", _config(data, out, epochs=6)]) == 0
    with open(out / "journal.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[0]["lr"]) == 0.0 and float(rows[2]["lr"]) == 1e-2

    from git_caption import Captioner

    captioner = Captioner.load(out, device="cpu")
    texts = captioner.caption([ROOT / "data/shapes/example.jpg"] * 2, num_beams=1)
    assert len(texts) == 2 and texts[0] == texts[1]
    assert captioner.config.prompt.question == "question: {question} answer:"


def test_captions_too_long_for_the_language_model_are_cut_and_told_once(data, tmp_path, capsys):
    """Five positions of sixteen are the grid's, and every caption has more than eleven tokens."""
    short = {"name": "small", "architecture": {**GPT2, "n_positions": 16}}
    assert main(["--config", _config(data, tmp_path / "run", language_model=short, question_tsv=None)]) == 0
    said = capsys.readouterr()
    assert said.err.count("too long and are cut") == 1
    assert "; 64 captions or answers cut" in said.out


def test_augmentation_reads_the_pictures_and_says_that_features_are_not_used(data, tmp_path, capsys):
    (tmp_path / "train.features").write_bytes(b"never opened")
    changes = {"features": str(tmp_path / "train.features"), "augment": "crop", "train_image_encoder": True}
    assert main(["--config", _config(data, tmp_path / "changed", **changes)]) == 0
    assert f"pictures are read, and the features in {tmp_path / 'train.features'} not used" in capsys.readouterr().out
    assert main(["--config", _config(data, tmp_path / "same")]) == 0
    changed, same = (_losses(tmp_path / name) for name in ("changed", "same"))
    assert len(changed) == len(same) and changed[0] != same[0]
    pickled = tmp_path / "oscar_split_train.pkl"
    pickled.touch()
    with pytest.raises(UsageError, match=r"'augment': changes pictures, and a pickle of ClipCap's has none"):
        parse_command(["--data", str(pickled), "--augment", "crop", "--output_dir", str(tmp_path / "pickle")])


def test_the_same_command_trains_the_same_weights(data, tmp_path):
    for name in ("first", "second"):
        assert main(["--config", _config(data, tmp_path / name)]) == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_frozen_parts_keep_their_weights_and_are_referred_to(data, tmp_path):
    clip = tmp_path / "clip"
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    config = _config(data, clip, objective="contrastive", image_encoder=encoder, question_tsv=None)
    assert main(["--config", config]) == 0
    weights = clip / "model.safetensors"
    assert all(name.startswith("visual.") for name in load_file(weights))

    out = tmp_path / "frozen"
    encoder = {"name": "custom", "architecture": VISION, "output": "grid", "weights": {"id": str(weights)}}
    assert main(["--config", _config(data, out, image_encoder=encoder, train_image_encoder=False)]) == 0
    stored = load_file(out / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"mapper", "language_model"}
    written = json.loads((out / "config.json").read_text())["image_encoder"]["weights"]
    assert written["id"] == str(weights) and len(written["sha256"]) == 64

    further = tmp_path / "further"
    encoder = {"name": str(weights), "output": "pooled"}
    config = _config(data, further, objective="contrastive", image_encoder=encoder, question_tsv=None)
    assert main(["--config", config]) == 0
    described = [json.loads((folder / DESCRIPTION).read_text()) for folder in (clip, further)]
    assert described[0] == described[1]

    named = tmp_path / "named"
    encoder = {"name": str(weights), "output": "grid"}
    assert main(["--config", _config(data, named, image_encoder=encoder, train_image_encoder=False)]) == 0
    again = load_file(named / "model.safetensors")
    assert again.keys() == stored.keys() and all(torch.equal(again[name], stored[name]) for name in stored)


def test_a_language_model_is_trained_on_texts_alone_and_taken_by_another_run(data, tmp_path, capsys):
    words = tmp_path / "words"
    unreadable = tmp_path / "unreadable.img.tsv"
    with open(data / "train.img.tsv") as rows:
        unreadable.write_text("".join(f"{line.split(chr(9))[0]}\tnot an image\n" for line in rows))
    changes = {"objective": "language", "image_tsv": str(unreadable), "train_image_encoder": False, "epochs": 4}
    no_picture = {"image_encoder": None, "mapper": None, "input_resolution": None}
    assert main(["--config", _config(data, words, **changes, **no_picture)]) == 0
    assert _losses(words)[-1] < 0.8 * _losses(words)[0]
    assert "skipped" not in capsys.readouterr().out

    out = tmp_path / "captioner"
    keys = {"language_model": {"name": str(words)}, "tune": "mapper", "vocab_size": 257}
    assert main(["--config", _config(data, out, **keys)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["language_model"]["weights"]["id"] == str(words)
    assert load_tokenizer(out / "tokenizer").get_vocab() == load_tokenizer(words).get_vocab()
    assert not any(name.startswith("language_model.") for name in load_file(out / "model.safetensors"))

    assert main(["--config", _config(data, words, **changes)]) == 2
    error = capsys.readouterr().err
    for name in ("image_encoder", "mapper", "input_resolution"):
        assert f"'{name}': objective language looks at no picture: leave it out" in error


def _losses(folder) -> list[float]:
    with open(folder / "journal.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_goes_on_from_a_checkpoint_with_other_parts_trained(data, tmp_path, capsys):
    assert main(["--config", _config(data, tmp_path / "first", epochs=4)]) == 0
    brought = {"image_encoder": None, "language_model": None, "mapper": None, "input_resolution": None, "prompt": None}
    config = _config(
        data, tmp_path / "second", init_from=str(tmp_path / "first"), lr=1e-4, train_image_encoder=False, **brought
    )
    assert main(["--config", config]) == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {name.split(".")[0] for name in same} == {"image_encoder"}
    assert all(name in same for name in first if name.startswith("image_encoder."))
    assert _losses(tmp_path / "second")[0] < 0.8 * _losses(tmp_path / "first")[0]
    written = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert written[0] == written[1]

    assert main(["--config", _config(data, tmp_path / "third", init_from=str(tmp_path / "first"))]) == 2
    assert "'image_encoder': 'init_from' brings it; leave one of them out" in capsys.readouterr().err

    written[0]["transform"]["resize"] = "keep"
    (tmp_path / "first" / "config.json").write_text(json.dumps(written[0]))
    assert main(["--config", config, "--output_dir", str(tmp_path / "fourth")]) == 2
    assert "its transform keeps the shape of images ('resize': 'keep'), and training takes" in capsys.readouterr().err


def test_a_run_needs_an_encoder_and_a_language_model_or_a_checkpoint(data, tmp_path, capsys):
    assert main(["--config", _config(data, tmp_path / "x", image_encoder=None, language_model=None)]) == 2
    error = capsys.readouterr().err
    assert "missing key 'image_encoder', or 'init_from'" in error and "missing key 'language_model'" in error


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(data, tmp_path, capsys):
    assert main(["--config", _config(data, tmp_path / "nan", lr=1e30, warmup_steps=0, epochs=3)]) == 1
    assert "at step" in capsys.readouterr().err
    assert not (tmp_path / "nan" / "config.json").exists()


def test_a_chat_needs_a_template_before_anything_is_trained(data, tmp_path, capsys):
    config = _config(data, tmp_path / "chat", prompt={"question": "{question}", "chat": True})
    assert main(["--config", config]) == 2
    assert "'chat': the language model's tokenizer has no chat template" in capsys.readouterr().err
    assert not (tmp_path / "chat" / "journal.csv").exists()


def test_an_instruct_model_is_trained_as_the_chat_it_is_asked_in_later(data, published, tmp_path):
    out = tmp_path / "instruct"
    prompt = {"caption": "Describe it.", "question": "{question}", "chat": True, "system": "Look."}
    language_model = {"name": str(published("qwen2"))}
    config = _config(data, out, language_model=language_model, prompt=prompt, tune="mapper", epochs=0.5)
    assert main(["--config", config]) == 0

    from git_caption import Captioner

    captioner = Captioner.load(out, device="cpu")
    assert captioner.tokenizer.decode(captioner.prompt_ids(captioner.caption_prompt())) == (
        "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\nDescribe it.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("trained", [True, False])
def test_a_language_model_saved_in_bits_stays_frozen(trained, data, published, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    folder = tmp_path / "bits"
    bits = {"name": str(published("qwen2")), "quantization": "8bit"}
    model = build_language_model(LanguageModelConfig(**bits), published("qwen2"))
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((published("qwen2") / file).read_bytes())
    out = tmp_path / "run"
    config = _config(data, out, language_model={"name": str(folder)}, tune="full" if trained else "mapper", epochs=0.5)
    assert main(["--config", config]) == (2 if trained else 0)
    if trained:
        assert f"'tune': {folder} is in 8bit; weights in 8 or 4 bits stay as they are" in capsys.readouterr().err
    else:
        written = json.loads((out / "config.json").read_text())["language_model"]
        assert (written["quantization"], written["weights"]["id"]) == ("8bit", str(folder))


def test_flags_win_over_the_config_file(data, tmp_path):
    config = _config(data, tmp_path / "x")
    params = parse_command(["--config", config, "--lr", "1e-4", "--epochs", "3", "--tune", "mapper"])
    assert (params.optimisation.lr, params.optimisation.epochs, params.optimisation.bs) == (1e-4, 3.0, 16)
    assert params.tuning.tune == "mapper"


def test_wrong_keys_are_all_named_before_anything_is_loaded(data, tmp_path, capsys):
    config = _config(data, tmp_path / "x", bs=0, warmup_step=3, image_tsv=str(data / "absent.tsv"))
    assert main(["--config", config]) == 2
    error = capsys.readouterr().err
    assert "'bs'" in error and "did you mean 'warmup_steps'" in error and "absent.tsv" in error


def test_contrastive_needs_pooled_features(data, tmp_path):
    with pytest.raises(UsageError, match="contrastive compares pooled features"):
        parse_command(["--config", _config(data, tmp_path / "x", objective="contrastive")])


def test_the_door_answers_help():
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--tune" in done.stdout and "configs/shapes.yaml" in done.stdout
    titles = ["data", "parts", "what is trained", "steps", "computing", "what is written"]
    places = [done.stdout.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert all(spelt in done.stdout for spelt in ("--output_gird", "--num_layres", "-iet", "-mpt", "--preset"))


def _contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("objective", ["caption", "contrastive"])
@pytest.mark.parametrize(
    "found", ["config.json", "model.safetensors", "tokenizer/tokenizer.json", ".saved/config.json"]
)
def test_a_folder_with_a_model_is_left_as_it_is(objective, found, data, tmp_path, capsys):
    out = tmp_path / "run"
    (out / found).parent.mkdir(parents=True)
    (out / found).write_text("{}")
    (out / "journal.csv").write_text("step\n")
    before = _contents(out)
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    assert main(["--config", _config(data, out, objective=objective, image_encoder=encoder)]) == 2
    error = capsys.readouterr().err
    name = Path(found).parts[0]
    assert error == (
        f"error: 'output_dir': {out} holds {name!r} of an earlier model, which is not overwritten: name another "
        "folder, or delete this one\n"
    )
    assert _contents(out) == before


def test_a_run_that_fails_before_its_first_step_writes_no_part_of_a_model(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["--config", _config(data, out, bs=1000)]) == 1
    assert (
        "64 pictures do not fill one step of 1000 (batches of 1000 x accumulation 1 x processes 1): lower --bs"
        in capsys.readouterr().err
    )
    assert _contents(out) == {}


def test_a_run_that_did_not_end_can_be_begun_anew_in_its_folder(data, tmp_path):
    out = tmp_path / "run"
    assert main(["--config", _config(data, out, lr=1e30, warmup_steps=0, epochs=3)]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["journal.csv", "training.json"]
    assert main(["--config", _config(data, out)]) == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_that_cannot_be_read_is_named_in_one_line(num_workers, data, tmp_path, capsys):
    images = tmp_path / "broken.tsv"
    captions = tmp_path / "caption.tsv"
    with TsvWriter(images) as writer, TsvWriter(captions) as said:
        for key in ("a", "b"):
            writer.write(ImageRow(key, b"no picture").columns() if key == "b" else _first_row(data, key))
            said.write(CaptionRow(key, ("one",)).columns())
    changes = {"image_tsv": str(images), "caption_tsv": str(captions), "question_tsv": None}
    changes |= {"on_error": "raise", "bs": 2, "num_workers": num_workers}
    assert main(["--config", _config(data, tmp_path / "run", **changes)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {images}:2: not an image") and error.endswith("(key 'b')\n")
    assert error.count("\n") == 1
    assert "Traceback" not in error and "worker" not in error


def _first_row(data, key) -> list[str]:
    line = (data / "train.img.tsv").read_text().split("\n", 1)[0]
    return [key, line.split("\t")[1]]


def test_debug_adds_the_traceback_and_keeps_the_exit_code(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "absent.yaml")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert main(["--debug", "--config", str(tmp_path / "absent.yaml")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last)") and printed.endswith(line)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epoch", "3"], "--epoch 3; did you mean --epochs?; see --help"),
        (["--mapper.typ=mlp"], "--mapper.typ=mlp; did you mean --mapper.type?; see --help"),
        (["--nonsense", "3"], "--nonsense 3; see --help"),
    ],
)
def test_a_wrong_flag_is_one_line_with_the_one_most_like_it(arguments, told, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: {told}\n"


def test_a_bug_of_ours_is_one_line(data, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("git_caption.training.parts.build_parts", fails)
    assert main(["--config", _config(data, tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "error: internal error: ZeroDivisionError: a b; run again with --debug for the traceback\n"
    )


def test_a_stop_sent_to_all_processes_ends_with_75_and_one_line(data, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "train.py", "--config", _config(data, out, epochs=1e6, num_workers=1)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("preset none: ")
    assert process.stdout.readline().startswith("step 1/")
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    said = rf"error: stopped by SIGTERM after step \d+ of 4000000, saved in {out}/last: run the same command again .*\n"
    assert re.fullmatch(said, errors)
    assert sorted(path.name for path in out.iterdir()) == ["journal.csv", "last", "loss.png", "training.json"]


def test_heads_that_cannot_share_the_width_are_refused_with_their_keys(data, tmp_path, capsys):
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    changes = {"objective": "contrastive", "image_encoder": encoder, "clip_text": {"width": 10, "heads": 3}}
    config = _config(data, tmp_path / "x", **changes)
    assert main(["--config", config]) == 2
    assert capsys.readouterr().err == (
        f"error: {config}: clip_text: 'width': expected a multiple of 'heads', 3, found 10\n"
    )


@pytest.fixture
def language_model(published, tmp_path, monkeypatch) -> Path:
    """The folder of a language model that a hub cache holds too, as `org/model`."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    hub_cache.snapshot(tmp_path / "home" / "hub", "org/model", published("qwen2"))
    return published("qwen2")


def test_a_frozen_language_model_is_the_one_that_weights_name(language_model, data, tmp_path):
    digest = hashlib.sha256((language_model / "model.safetensors").read_bytes()).hexdigest()
    weights = {"id": "org/model", "revision": hub_cache.REVISION, "sha256": digest}
    out = tmp_path / "run"
    changes = {"language_model": {"name": "mine", "weights": weights}, "tune": "mapper", "epochs": 0.5}
    assert main(["--config", _config(data, out, **changes)]) == 0
    written = json.loads((out / "config.json").read_text())["language_model"]
    assert (written["name"], written["weights"]) == ("mine", weights)

    from git_caption import Captioner

    captioner = Captioner.load(out, device="cpu")
    held, wanted = captioner.network.language_model.state_dict(), load_file(language_model / "model.safetensors")
    assert all(torch.equal(held[name], tensor) for name, tensor in wanted.items())
    assert captioner.tokenizer("a red circle").input_ids == load_tokenizer(language_model)("a red circle").input_ids


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"id": "no-such/repository"}, "no-such/repository: "),
        ({"id": "org/model", "revision": "abc"}, "org/model"),
        ({"id": "org/model", "sha256": "deadbeef"}, "org/model: the weights at "),
    ],
)
def test_weights_of_a_language_model_that_cannot_be_had_stop_the_run(
    weights, message, trained, language_model, data, tmp_path, capsys
):
    changes = {
        "language_model": {"name": str(language_model), "weights": weights},
        "tune": "full" if trained else "mapper",
    }
    assert main(["--config", _config(data, tmp_path / "run", **changes)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_image_encoder_of_other_weights_than_noted_stops_the_run(data, tmp_path, capsys):
    clip = tmp_path / "clip"
    encoder = {"name": "custom", "architecture": VISION, "output": "pooled"}
    assert main(["--config", _config(data, clip, objective="contrastive", image_encoder=encoder)]) == 0
    weights = {"id": str(clip / "model.safetensors"), "sha256": "deadbeef"}
    assert main(["--config", _config(data, tmp_path / "x", image_encoder={**encoder, "weights": weights})]) == 1
    assert "expected deadbeef" in capsys.readouterr().err


def test_a_new_language_model_has_no_weights(data, tmp_path, capsys):
    language_model = {"name": "small", "architecture": GPT2, "weights": {"id": "org/model"}}
    assert main(["--config", _config(data, tmp_path / "x", language_model=language_model)]) == 2
    assert "'architecture' makes a new one and 'weights' names one: leave one of them out" in capsys.readouterr().err
