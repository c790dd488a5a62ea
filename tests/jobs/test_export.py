from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from git_caption.captioner import checkpoint, weight_sources
from git_caption.captioner.captioner import Captioner
from git_caption.jobs.main import main
from git_caption.model.clip_vision import OPENAI_MARKS
from git_caption.params.model import ImageEncoderConfig, WeightsSource
from tests import hub_cache
from tests.small_captioner import small_captioner
from tests.written_clip import clip_file

PICTURE = Path(__file__).parents[2] / "data" / "shapes" / "example.jpg"
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}


@pytest.fixture
def parts(tmp_path) -> tuple[Path, Path]:
    """A CLIP and a language model, each where another machine does not have it."""
    marks = {name: torch.tensor(32) for name in OPENAI_MARKS}
    (tmp_path / "parts").mkdir()
    clip_file(tmp_path / "parts" / "clip.pt", VISION, True, 12, **marks)
    return tmp_path / "parts" / "clip.pt", hub_cache.language_model(tmp_path / "parts" / "lm")


def run(**keys) -> int:
    return main(["-p", repr({"type": "export", **keys})])


@pytest.mark.parametrize("quantization", ["none", "8bit"])
def test_frozen_parts_are_stored_and_nothing_else_is_needed(quantization, parts, tmp_path, capsys):
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    clip, language_model = parts
    captioner = small_captioner(language_model)
    sources = [WeightsSource(str(path), sha256=weight_sources.weights_sha256(path)) for path in parts]
    config = replace(
        captioner.config,
        image_encoder=ImageEncoderConfig(str(clip), weights=sources[0], output="pooled"),
        language_model=replace(captioner.config.language_model, weights=sources[1], quantization=quantization),
    )
    checkpoint.save(config, captioner.network, captioner.tokenizer, tmp_path / "small")
    said = Captioner.load(tmp_path / "small", device="cpu").caption([PICTURE])

    assert run(model_path=str(tmp_path / "small"), out_dir=str(tmp_path / "whole")) == 0, capsys.readouterr().err

    shutil.rmtree(tmp_path / "parts")
    shutil.rmtree(tmp_path / "small")
    found = Captioner.load(tmp_path / "whole", device="cpu")
    assert found.caption([PICTURE]) == said
    assert found.config.image_encoder.weights is None and found.config.language_model.weights is None
    assert found.config.language_model.quantization == quantization


def test_a_file_of_an_old_tool_is_converted(parts, tmp_path, capsys):
    clip, language_model = parts
    network = small_captioner(language_model).network
    tensors = {f"clip_project.{name}": value for name, value in network.mapper.state_dict().items()}
    tensors |= {f"gpt.{name}": value for name, value in network.language_model.state_dict().items()}
    torch.save(tensors, tmp_path / "coco_weights.pt")
    told = {"image_encoder_type": str(clip), "language_model": str(language_model)}
    said = Captioner.load(tmp_path / "coco_weights.pt", device="cpu", **told).caption([PICTURE])

    keys = {"model_path": str(tmp_path / "coco_weights.pt"), "out_dir": str(tmp_path / "whole"), "dtype": "float16"}
    assert run(**keys, **told) == 0, capsys.readouterr().err
    assert {tensor.dtype for tensor in checkpoint.read_weights(tmp_path / "whole").values()} == {torch.float16}
    assert run(**{**keys, "dtype": "float32"}, **told) == 0, capsys.readouterr().err

    shutil.rmtree(tmp_path / "parts")
    assert Captioner.load(tmp_path / "whole", device="cpu").caption([PICTURE]) == said


def test_how_images_are_seen_is_not_changed(tmp_path, capsys):
    assert run(model_path="data/shapes/model", out_dir=str(tmp_path / "whole"), test_crop_size=64) == 2
    assert "'test_crop_size': is given when a checkpoint is used, and not stored" in capsys.readouterr().err
