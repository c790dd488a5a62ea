"""`train.py` on a small set of shapes: what it writes, what it keeps frozen, what it refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from git_caption.errors import UsageError
from git_caption.jobs.shapes import make
from git_caption.model.clip_text import ClipText
from git_caption.model.git import TextBatch
from git_caption.model.language import build_language_model
from git_caption.params.model import LanguageModelConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.samples.collate import Batch
from git_caption.training import objectives
from git_caption.training.main import main, parse_command

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
        "train_language_model": True,
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
    assert main(["--config", config]) == 2
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
    config = _config(data, out, language_model=language_model, prompt=prompt, train_language_model=False, epochs=0.5)
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
    config = _config(data, out, language_model={"name": str(folder)}, train_language_model=trained, epochs=0.5)
    assert main(["--config", config]) == (2 if trained else 0)
    if trained:
        assert f"'train_language_model': {folder} is in 8bit and cannot be trained" in capsys.readouterr().err
    else:
        written = json.loads((out / "config.json").read_text())["language_model"]
        assert (written["quantization"], written["weights"]["id"]) == ("8bit", str(folder))


def test_flags_win_over_the_config_file(data, tmp_path):
    config = _config(data, tmp_path / "x")
    params = parse_command(["--config", config, "--lr", "1e-4", "--epochs", "3", "--train_language_model", "False"])
    assert (params.lr, params.epochs, params.train_language_model, params.bs) == (1e-4, 3.0, False, 16)


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
    assert "--train_language_model" in done.stdout and "configs/shapes.yaml" in done.stdout


class _Counting(torch.nn.Module):
    """Stands where the network does: the log-probability of each target token is minus its id."""

    def encode(self, pixels):
        from git_caption.model.vision import Features

        return Features(pixels.mean((2, 3))[:, None], torch.ones(len(pixels), 1, dtype=torch.bool))

    def token_logprobs(self, features, batch: TextBatch):
        longest = max(map(len, batch.target_ids))
        return torch.tensor([[-float(t) for t in ids] + [0.0] * (longest - len(ids)) for ids in batch.target_ids])


def test_the_caption_loss_is_the_sum_over_target_tokens_by_their_number():
    targets = [[1], [2, 3], [4, 5, 6], [7], [8]]
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 0, 1, 1, 1]), [[9]] * 5, targets)
    loss = objectives.CaptionObjective(_Counting()).loss(torch.zeros(2, 3, 4, 4), batch)
    assert loss.item() == pytest.approx(sum(range(1, 9)) / 8)


def test_the_contrastive_loss_of_a_perfect_match_is_near_zero_and_of_a_swap_is_not():
    from git_caption.model.vision import Features

    torch.manual_seed(0)
    text = ClipText(width=8, layers=1, heads=2, context=4, vocab=10, embed_dim=6).eval()
    text.log_scale.data.fill_(4.0)
    captions = [[1, 2], [3, 4, 5]]
    own = torch.stack([text(torch.tensor([ids]), torch.tensor([len(ids)]))[0] for ids in captions]).detach()

    class Encoder(torch.nn.Module):
        def forward(self, pixels):
            rows = own if pixels[0, 0, 0, 0] == 0 else own.flip(0)
            return Features(rows[:, None], torch.ones(2, 1, dtype=torch.bool))

    objective = objectives.ContrastiveObjective(Encoder(), text)
    batch = Batch(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), [[], []], captions)
    right, swapped = (objective.loss(torch.full((2, 3, 1, 1), value), batch).item() for value in (0.0, 1.0))
    assert right < 0.1 < 1.0 < swapped
