from __future__ import annotations

import pytest

from git_caption.errors import JobFailed
from git_caption.jobs.prefetch import prefetch
from git_caption.params.prefetch import PrefetchParams
from tests import hub_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (source / name).write_text(name)
    hub_cache.snapshot(tmp_path / "home" / "hub", "gpt2-large", source)
    return tmp_path / "home" / "hub"


def test_it_prints_where_each_id_lies(cache, capsys):
    prefetch(PrefetchParams(ids=("gpt2-large",)))
    assert capsys.readouterr().out == f"gpt2-large: {cache}/models--gpt2-large/snapshots/{hub_cache.REVISION}\n"


def test_one_that_fails_does_not_keep_the_others_back(cache, capsys):
    with pytest.raises(JobFailed, match=r"^2 of 3 ids could not be fetched: ViT-B/32, weights/none.pt$") as caught:
        prefetch(PrefetchParams(ids=("ViT-B/32", "gpt2-large", "weights/none.pt")))
    assert caught.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ViT-B/32: not fetched: ViT-B/32 (timm/vit_base_patch32_clip_224.openai): open_clip")
    assert lines[1].startswith(f"gpt2-large: {cache}")
    assert lines[2].startswith("weights/none.pt: not fetched: 'weights/none.pt' is neither an image encoder")
