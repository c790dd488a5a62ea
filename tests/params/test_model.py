"""The config.json of a checkpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from git_caption.params.decoding import DecodingParams
from git_caption.params.model import (
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    TransformConfig,
    WeightsSource,
)
from git_caption.params.schema import faults, parse, to_dict

SMALLEST: dict[str, Any] = {
    "image_encoder": {"name": "ViT-B/32"},
    "mapper": {"type": "mlp"},
    "language_model": {"name": "gpt2"},
}


def test_a_config_survives_its_file() -> None:
    config = CaptionerConfig(
        image_encoder=ImageEncoderConfig("custom", {"embed_dim": 8, "layers": [1, 2]}, output="pooled"),
        mapper=MapperConfig("transformer", prefix_length=3, heads=2),
        language_model=LanguageModelConfig("gpt2", weights=WeightsSource("gpt2", "abc", "0" * 64), quantization="8bit"),
        transform=TransformConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", exif=False),
        decoding=DecodingParams(num_beams=2, stop=(".",)),
        versions={"torch": "2.14"},
    )
    assert parse(CaptionerConfig, json.loads(json.dumps(to_dict(config))), "config.json") == config


def test_what_the_file_leaves_out_is_clip_s() -> None:
    config = parse(CaptionerConfig, SMALLEST, "config.json")
    assert config.transform == TransformConfig(224, (0.48145466, 0.4578275, 0.40821073), exif=True)
    assert config.image_encoder.output == "grid"
    assert config.image_encoder.keep_class_token
    assert config.mapper.prefix_length == 5
    assert (config.mapper.clip_length, config.mapper.layers, config.mapper.heads) == (10, 8, 8)
    assert config.prompt.question == "{question}"
    assert config.fusion == "prefix"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion": "sum"}, "'fusion': expected one of prefix, cross_attention, found 'sum'"),
        (
            {"fusion": "cross_attention"},
            "missing key 'cross_attention': the part that 'fusion': 'cross_attention' needs",
        ),
        ({"mapper": None}, "missing key 'mapper': the part that 'fusion': 'prefix' needs"),
        ({"mapper": {"type": "mlp", "heds": 2}}, "unknown key 'mapper.heds'; did you mean 'heads'?"),
        ({"mapper": {}}, "missing key 'mapper.type': kind of network"),
        (
            {"language_model": {"name": "gpt2", "weights": {"id": "gpt2", "revison": "a"}}},
            "unknown key 'language_model.weights.revison'; did you mean 'revision'?",
        ),
        (
            {"transform": {"mean": [0.5, 0.5], "std": [1, 0, 1]}},
            "transform: 'mean': expected 3 numbers, one for each of R, G and B, found 2",
        ),
        (
            {"transform": {"longest": 640}},
            "transform: 'longest': goes with 'resize': 'keep', found 'crop'",
        ),
        (
            {"transform": {"resize": "keep", "longest": 200}},
            "transform: 'longest': expected at least the resolution 224, found 200",
        ),
        ({"transform": {"resize": "pad"}}, "'transform.resize': expected one of crop, squash, keep, found 'pad'"),
        ({"transform": {"std": [1, 0, 1]}}, "transform: 'std': expected numbers above 0, found [1.0, 0.0, 1.0]"),
        (
            {"image_encoder": {"name": "custom"}},
            "image_encoder: 'architecture': needed where 'name' is 'custom', found none",
        ),
        (
            {"language_model": {"name": "tiny", "architecture": {"n_embd": 8}}},
            "language_model: 'architecture': expected a transformers config with 'model_type', found none",
        ),
        ({"prompt": {"question": "Q:"}}, "prompt: 'question': expected a template with {question} in it, found 'Q:'"),
        ({"fussion": "prefix"}, "unknown key 'fussion'; did you mean 'fusion'?"),
    ],
)
def test_faults_name_the_key(change: dict[str, Any], message: str) -> None:
    assert f"config.json: {message}" in faults(CaptionerConfig, SMALLEST | change, "config.json")
