"""Training as ClipCap trains: from its pickles and its files, on image encoders known by name or by width."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from git_caption.captioner.captioner import Captioner, Features
from git_caption.model.clip_vision import OPENAI_MARKS
from git_caption.training.main import main, parse_command
from tests import hub_cache
from tests.small_captioner import small_captioner
from tests.written_clip import clip_file

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
WIDTH = 12  # of the pooled features


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A small random CLIP in a file as OpenAI's."""
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    clip_file(path, VISION, True, WIDTH, **{name: torch.tensor(32) for name in OPENAI_MARKS})
    return str(path)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> str:
    return str(hub_cache.language_model(tmp_path_factory.mktemp("gpt2")))


def pickled(path: Path, width: int = WIDTH, scale: float = 1.0) -> str:
    """Sixteen captions with embeddings that differ, as parse_coco.py writes them."""
    captions = [{"image_id": row, "caption": f"{row % 4} squares", "clip_embedding": row} for row in range(16)]
    embeddings = scale * torch.randn(16, width, generator=torch.Generator().manual_seed(1))
    path.write_bytes(pickle.dumps({"clip_embedding": embeddings, "captions": captions}))
    return str(path)


def run(out: Path, **values) -> int:
    defaults = {
        "output_dir": str(out),
        "epochs": 1,
        "bs": 8,
        "num_workers": 0,
        "device": "cpu",
        "log_every": 1,
        "warmup_steps": 0,
    }
    path = out.with_suffix(".json")
    path.write_text(json.dumps({**defaults, **values}))
    return main(["--config", str(path)])


def test_a_file_of_clipcaps_is_trained_further(clip, language_model, tmp_path, capsys):
    captioner = small_captioner(Path(language_model), "gpt2", "transformer")
    network = captioner.network
    tensors = {f"clip_project.{name}": value for name, value in network.mapper.state_dict().items()}
    tensors |= {f"gpt.{name}": value for name, value in network.language_model.state_dict().items()}
    torch.save(tensors, tmp_path / "coco_weights.pt")
    said = {"image_encoder": {"name": clip}, "language_model": {"name": language_model}}
    keys = {"init_from": str(tmp_path / "coco_weights.pt"), "data": pickled(tmp_path / "data.pkl"), **said}
    assert run(tmp_path / "out", **keys, lr=1e-3, tune="mapper") == 0, capsys.readouterr().err
    trained = Captioner.load(tmp_path / "out", device="cpu")
    before = captioner.network.mapper.state_dict()
    after = trained.network.mapper.state_dict()
    assert before.keys() == after.keys() and not torch.equal(before["prefix_const"], after["prefix_const"])
    ours, theirs = trained.network.language_model.state_dict(), network.language_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert trained.config.image_encoder.weights.id == clip


@pytest.mark.parametrize(
    ("name", "switches", "encoder"),
    [
        ("oscar_split_ViT-B_32_train.pkl", [], "ViT-B/32"),
        ("oscar_split_RN50x4_train.pkl", [], "RN50x4"),
        ("oscar_split_RN50_train.pkl", [], "RN50"),
        ("oscar_split_ViT-L_14@336px.pkl", [], "ViT-L/14@336px"),
        ("oscar_split_train.pkl", [], "ViT-B/32"),
        ("oscar_split_train.pkl", ["--is_rn"], "RN50x4"),
    ],
)
def test_a_pickle_tells_its_image_encoder(name, switches, encoder, tmp_path):
    (tmp_path / name).touch()
    command = ["--data", str(tmp_path / name), "--out_dir", str(tmp_path / "out"), "--normalize_prefix", *switches]
    found = parse_command(command).parts
    assert (found.image_encoder.name, found.image_encoder.output) == (encoder, "pooled")
    assert found.mapper.normalize


def test_data_alone_is_enough_to_caption_images_after(language_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    source = tmp_path / "source"
    source.mkdir()
    narrow = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 2}
    real = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {**real(name), "vision_cfg": narrow})
    clip_file(source / "open_clip_model.safetensors", narrow, True, 640)
    hub_cache.snapshot(tmp_path / "home" / "hub", "timm/resnet50x4_clip.openai", source)
    keys = {"data": pickled(tmp_path / "oscar_split_RN50x4_train.pkl", 640), "mapper": {"type": "mlp"}}
    keys |= {"language_model": {"name": language_model}}
    assert run(tmp_path / "out", **keys) == 0, capsys.readouterr().err
    captioner = Captioner.load(tmp_path / "out", device="cpu")
    assert captioner.config.image_encoder.name == "RN50x4"
    assert len(captioner.caption([Image.new("RGB", (40, 40))])) == 1


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
@pytest.mark.parametrize("tuned", [True, False])
def test_features_are_normalised_in_training_as_after(mapper, tuned, clip, language_model, tmp_path, capsys):
    """Features a hundred times as long train the same, and caption the same."""
    keys = {
        "image_encoder": {"name": clip, "output": "pooled"},
        "language_model": {"name": language_model},
        "mapper": {"type": mapper, "prefix_length": 4, "clip_length": 4, "layers": 2, "normalize": True},
        "tune": "full" if tuned else "mapper",
        "lr": 1e-3,
    }
    for name, scale in (("plain", 1.0), ("long", 128.0)):
        data = pickled(tmp_path / f"{name}.pkl", scale=scale)
        assert run(tmp_path / name, **keys, data=data) == 0, capsys.readouterr().err
    journals = [(tmp_path / name / "journal.csv").read_text().splitlines()[1:] for name in ("plain", "long")]
    first, second = ([line.split(",")[:3] for line in lines] for lines in journals)
    assert first == second and len(first) == 2
    network = Captioner.load(tmp_path / "plain", device="cpu").network
    values = torch.randn(2, 1, WIDTH)
    mask = torch.ones(2, 1, dtype=torch.bool)
    with torch.inference_mode():
        found = network.prefix(Features(128 * values, mask))[0]
        norm = values.pow(2).sum(-1, keepdim=True).sqrt()
        torch.testing.assert_close(found, network.mapper(values / norm, mask), atol=1e-6, rtol=0)
