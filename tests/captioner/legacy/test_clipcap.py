from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from git_caption.captioner.captioner import Captioner
from git_caption.decoding.generate import Identity
from git_caption.errors import UsageError, WeightsError
from git_caption.model.clip_vision import OPENAI_MARKS
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features
from git_caption.params.decoding import DecodingParams
from tests.written_clip import clip_file


def encoder(folder: Path, width: int) -> str:
    """A file with a small random CLIP, as OpenAI's are written, whose pooled features have this width."""
    marks = {name: torch.tensor(32) for name in OPENAI_MARKS}
    clip_file(folder / "clip.pt", {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}, True, width, **marks)
    return str(folder / "clip.pt")


def pooled(values: torch.Tensor) -> Features:
    return Features(values[:, None], torch.ones(len(values), 1, dtype=torch.bool))


def test_it_says_what_the_tool_said(shared_data, tmp_path):
    folder = shared_data / "legacy" / "clipcap_mlp"
    expected = json.loads((folder / "expected.json").read_text())
    tensors = torch.load(folder / "expected.pt", weights_only=True)
    captioner = Captioner.load(
        folder / "model.pt", image_encoder_type=encoder(tmp_path, 64), language_model=str(folder / "gpt2"), device="cpu"
    )
    assert captioner.config.mapper.prefix_length == expected["prefix_length"] == 10
    assert captioner.config.transform.exif is False
    with torch.inference_mode():
        prefix, _ = captioner.network.prefix(pooled(tensors["prefix_in"]))
        torch.testing.assert_close(prefix, tensors["prefix_embeddings"], atol=1e-6, rtol=0)
        lengths = tensors["batch_mask"].sum(1).long() - 10
        targets = [row[:length].tolist() for row, length in zip(tensors["batch_tokens"], lengths, strict=True)]
        found = captioner.network.token_logprobs(pooled(tensors["batch_prefix"]), TextBatch([[]] * 4, targets))
    theirs = tensors["batch_logits_full"].log_softmax(-1)
    for row, ids in enumerate(targets):
        wanted = theirs[row, 9 : 9 + len(ids)].gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(found[row, : len(ids)], wanted, atol=1e-4, rtol=0)
    decoding = captioner.decoding(DecodingParams(), "caption")
    count = len(tensors["prefix_in"])
    texts = captioner.generate(
        pooled(tensors["prefix_in"]), [""] * count, decoding, [Identity(str(row)) for row in range(count)]
    )
    assert [text[0].text + "." for text in texts] == expected["generate2"]


def old_transformer(path: Path, captioner: Captioner, extra: dict[str, torch.Tensor] | None = None) -> None:
    """Write a captioner's mapper and language model as ClipCap with OPT or GPT-2 would have written them."""
    network = captioner.network
    tensors = {f"clip_project.{name}": value for name, value in network.mapper.state_dict().items()}
    tensors |= {f"gpt.{name}": value for name, value in network.language_model.state_dict().items()}
    torch.save({**tensors, **(extra or {})}, path)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_transformers_and_both_language_models_are_read(family, make_captioner, language_models, tmp_path):
    captioner = make_captioner(family, "transformer")
    old_transformer(tmp_path / "model.pt", captioner, {"gpt.transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})
    loaded = Captioner.load(
        tmp_path / "model.pt", image_encoder_type=encoder(tmp_path, 12), language_model=str(language_models[family])
    )
    mapper = loaded.config.mapper
    assert (mapper.type, mapper.prefix_length, mapper.clip_length, mapper.layers, mapper.heads) == (
        "transformer",
        *(3, 2, 1, 8),
    )
    assert loaded.network.language_model.state_dict().keys() == captioner.network.language_model.state_dict().keys()
    features = pooled(functional.normalize(torch.randn(2, 12)))
    captioner.network.mapper.transformer.layers[0].attn.heads = 8  # the tool always has eight
    assert torch.equal(loaded.network.prefix(features)[0], captioner.network.prefix(features)[0])


def test_what_a_file_does_not_say_is_asked_for(make_captioner, language_models, tmp_path):
    captioner = make_captioner("gpt2")
    old_transformer(tmp_path / "model.pt", captioner)
    with pytest.raises(UsageError, match=r"features of width 12.*'image_encoder_type'"):
        Captioner.load(tmp_path / "model.pt", language_model=str(language_models["gpt2"]))
    with pytest.raises(UsageError, match=r"language model of width 16.*'language_model'"):
        Captioner.load(tmp_path / "model.pt", image_encoder_type="ViT-B/32")
    with pytest.raises(UsageError, match=r"mapping_type 'linear' was given and the file has 'mlp'"):
        Captioner.load(tmp_path / "model.pt", image_encoder_type="ViT-B/32", mapping_type="linear")
    torch.save({"clip_project.model.2.weight": torch.ones(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"no language model beside clip_project"):
        Captioner.load(tmp_path / "model.pt")
