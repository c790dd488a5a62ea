from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from git_caption import Captioner
from git_caption.captioner import checkpoint, weight_sources
from git_caption.captioner.feature_origin import feature_origin
from git_caption.errors import UsageError
from git_caption.params.infer import ModelParams
from git_caption.params.model import WeightsSource


@pytest.fixture
def saved(make_captioner, tmp_path):
    make_captioner().save(tmp_path / "model")
    return tmp_path / "model"


def origin(folder, what="features"):
    return feature_origin(checkpoint.load_config(folder), ModelParams(model_path=str(folder)), what)


def changed(folder, name, *, to=None):
    """The checkpoint with the first tensor called `name`... a little different."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    first = next(key for key in sorted(tensors) if key.startswith(name))
    tensors[first] = tensors[first] + 1e-3 if to is None else to
    save_file(tensors, path)


def test_a_stored_encoder_is_told_by_its_own_tensors_alone(saved):
    before = origin(saved)
    changed(saved, "mapper.")
    changed(saved, "language_model.")
    assert origin(saved) == before
    changed(saved, "image_encoder.")
    assert origin(saved).weights != before.weights


def test_an_encoder_stored_again_is_the_same_one(saved, tmp_path):
    Captioner.load(saved, device="cpu").save(tmp_path / "again")
    assert origin(tmp_path / "again") == origin(saved)


def test_another_activation_with_the_same_tensors_is_another_encoder(saved):
    before = origin(saved)
    config = json.loads((saved / "config.json").read_text())
    config["image_encoder"]["architecture"]["quick_gelu"] = False
    (saved / "config.json").write_text(json.dumps(config))
    assert origin(saved).weights != before.weights


def test_a_frozen_encoder_is_told_by_the_sha256_of_its_weights(make_captioner, tmp_path):
    config = make_captioner().config
    weights = tmp_path / "clip.safetensors"
    save_file({"visual.a": torch.zeros(2)}, weights)
    sum_of = weight_sources.weights_sha256(weights)
    for source in (WeightsSource(str(weights)), WeightsSource("not/there", sha256=sum_of)):
        frozen = replace(config, image_encoder=replace(config.image_encoder, weights=source))
        assert feature_origin(frozen, None).weights == sum_of


def test_a_prefix_is_told_by_the_mapper_too(saved):
    before = origin(saved, "prefix")
    assert before == replace(origin(saved), mapper=before.mapper) and before.mapper is not None
    changed(saved, "language_model.")
    assert origin(saved, "prefix") == before
    changed(saved, "mapper.")
    assert origin(saved, "prefix").mapper != before.mapper


def test_a_new_part_has_no_features_to_store(make_captioner):
    with pytest.raises(UsageError, match="features: the image encoder is new, it has none that could be stored"):
        feature_origin(make_captioner().config, None)
