from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from git_caption.captioner.captioner import Captioner
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model, width
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import build_image_encoder
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import (
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    TransformConfig,
)
from git_caption.text.tokenizer import load_tokenizer
from tests import hub_cache

ENCODER = ImageEncoderConfig(
    name="custom",
    architecture={
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
    },
    output="pooled",
)


@pytest.fixture(scope="session")
def language_models(tmp_path_factory) -> dict[str, Path]:
    """A folder with a small random language model of each family."""
    return {
        family: hub_cache.language_model(tmp_path_factory.mktemp(family) / family, family)
        for family in ("gpt2", "opt", "llama")
    }


@pytest.fixture
def make_captioner(language_models):
    """Builds a small random captioner in memory."""

    def make(family: str = "gpt2", mapper: str = "mlp", output: str = "pooled", seed: int = 0) -> Captioner:
        folder = language_models[family]
        torch.manual_seed(seed)
        encoder = build_image_encoder(replace(ENCODER, output=output))
        config = CaptionerConfig(
            image_encoder=replace(ENCODER, output=output),
            mapper=MapperConfig(type=mapper, prefix_length=3, clip_length=2, layers=1, heads=2),
            language_model=LanguageModelConfig(name=family),
            transform=TransformConfig(resolution=32),
            decoding=DecodingParams(num_beams=2, max_new_tokens=8),
        )
        model = build_language_model(config.language_model, folder)
        built = build_mapper(config.mapper, encoder.width, width(model), output == "pooled")
        with torch.no_grad():
            for parameter in [*built.parameters(), *encoder.parameters()]:
                parameter.add_(0.4 * torch.randn_like(parameter))
        return Captioner(config, GitNetwork(encoder, built, model).eval(), load_tokenizer(folder))

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Three small image files that differ."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, colour in enumerate([(220, 30, 30), (20, 200, 60), (30, 40, 210)]):
        image = Image.new("RGB", (48, 40), colour)
        image.paste((255, 255, 255), (4 * number, 5, 20 + 4 * number, 25))
        paths.append(folder / f"{number}.png")
        image.save(paths[-1])
    return paths


@pytest.fixture
def hub_home(tmp_path, monkeypatch) -> Path:
    """An empty hub cache of this test's own, offline; gives HF_HOME/hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / "hub"
