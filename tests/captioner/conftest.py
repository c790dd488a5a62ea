from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from git_caption.captioner.captioner import Captioner
from tests import hub_cache
from tests.small_captioner import small_captioner


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
        return small_captioner(language_models[family], family, mapper, output, seed)

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
