"""Training as ClipCap trains: from its pickles and its files, on image encoders known by name or by width."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.model.clip_vision import OPENAI_MARKS
from git_caption.training.main import main
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
    defaults = {"output_dir": str(out), "bs": 8, "num_workers": 0, "device": "cpu", "log_every": 1, "warmup_steps": 0}
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
    assert run(tmp_path / "out", **keys, lr=1e-3) == 0, capsys.readouterr().err
    trained = Captioner.load(tmp_path / "out", device="cpu")
    before = captioner.network.mapper.state_dict()
    after = trained.network.mapper.state_dict()
    assert before.keys() == after.keys() and not torch.equal(before["prefix_const"], after["prefix_const"])
    ours, theirs = trained.network.language_model.state_dict(), network.language_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert trained.config.image_encoder.weights.id == clip
