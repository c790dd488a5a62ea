"""Several image encoders, and stored prefixes, among the parameters: what they come to, and what is refused."""

from __future__ import annotations

import re

import pytest

from git_caption.errors import UsageError
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.settings import settle

TWO = "ViT-B/32,RN50"


@pytest.fixture
def told(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "captions", "a", "b", "with,comma"):
        (tmp_path / name).write_text("")
    return {"image_tsv": "images", "caption_tsv": "captions", "output_dir": "out"}


def settled(config, **flags) -> TrainingParams:
    return settle(config, flags, "run.yaml").params


def test_names_with_commas_are_several_encoders_of_one_output(told):
    params = settled(told, image_encoder_type="ViT-B/32, RN50", output_grid="False", mixing="hprod")
    encoders = params.parts.image_encoders
    assert [(one.name, one.output) for one in encoders] == [("ViT-B/32", "pooled"), ("RN50", "pooled")]
    assert (params.preset, params.parts.mixes_stored) == ("git", False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("mlp", "pooled")),
        ({"output_grid": "False"}, ("mlp", "pooled")),
        ({"output_grid": "True"}, ("transformer", "grid")),
        ({"mapping_type": "linear"}, ("linear", "pooled")),
        ({"mapper.type": "transformer"}, ("transformer", "grid")),
    ],
)
def test_prefixes_of_any_encoders_are_of_one_length_unless_told_otherwise(told, flags, expected):
    parts = settled(told, image_encoder_type=TWO, mixing="cnn", language_model="gpt2", **flags).parts
    assert (parts.mapper.type, parts.image_encoder.output) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_key": "mixqdim", "features": "a,b"}, r"'mixing': expected .*; did you mean 'mix-qdim'\?"),
        ({"image_encoder_type": TWO, "fusion": "cross_attention"}, r"'mixing': is of prefixes, .* name one image .*"),
    ],
)
def test_one_fault_is_one_line(told, flags, message):
    with pytest.raises(UsageError) as error:
        settled(told, **flags)
    assert re.fullmatch(f"run.yaml: {message}", str(error.value)), error.value


def test_the_preset_is_told_in_one_line(told):
    (line,) = str(settle(told, {"model_key": "cnn", "features": "a,b"}, "run.yaml")).splitlines()
    assert r"prompt.end '\n', " in line


def test_the_old_line_mixes_stored_prefixes_before_a_frozen_opt(told):
    flags = {"model_key": "mix-qdim", "output_folder": "res", "total_epoch": "3", "features": "a,b"}
    params = settled({key: told[key] for key in ("image_tsv", "caption_tsv")}, **flags)
    parts = params.parts
    assert (params.preset, parts.mixing, parts.mixes_stored) == ("nice", "mix-qdim", True)
    assert (parts.language_model.name, params.tuning.tune) == ("facebook/opt-2.7b", "mapper")
    assert (parts.prompt.caption, parts.prompt.end) == ("a photo of", "\n")
    assert (params.saving.output_dir, params.optimisation.epochs) == ("res", 3)


def test_a_file_whose_name_has_a_comma_is_one(told):
    assert settled(told, features="with,comma").dataset.features == "with,comma"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_encoder_type": TWO}, r"missing key 'mixing': cnn, hprod or mix-qdim, for 2 .* 'ViT-B/32', 'RN50'"),
        ({"image_encoder_type": "RN50", "mixing": "cnn"}, r"'mixing': of two image encoders .* one, 'RN50'"),
        ({"image_encoder_type": "RN50,", "mixing": "cnn"}, r"expected names divided by commas, found 'RN50,'"),
        ({"image_encoder_type": TWO, "mixing": "cnm"}, r"'mixing': expected one of cnn, .*; did you mean 'cnn'"),
        ({"image_encoder_type": TWO, "mixing": "cnn", "features": "a"}, r"'features': .*2 image encoders .*found 1"),
        ({"image_encoder_type": TWO, "mixing": "cnn", "features": "a,c"}, r"'features': no such file: 'c'"),
        ({"image_encoder_type": "RN50", "features": "a,b"}, r"'features': .* of 1 image encoders .*found 2"),
        ({"mixing": "cnn"}, r"'mixing': name two image encoders, with commas, or give 'features'"),
        ({"mixing": "cnn", "features": "a"}, r"'features': expected the prefixes of two captioners .*found one"),
        ({"mixing": "cnn", "features": "a,b", "mapping_type": "mlp"}, r"'mapper': stored prefixes are mapped already"),
        ({"mixing": "cnn", "features": "a,b", "augment": "crop"}, r"'augment': changes pictures"),
        ({"mixing": "cnn", "features": "a,b", "train_image_encoder": "True"}, r"'train_image_encoder': there is none"),
        (
            {"mixing": "cnn", "features": "a,b", "val_image_tsv": "images", "val_caption_tsv": "captions"},
            r"missing key 'val_features'",
        ),
        ({"mapping_type": "stored"}, r"'mapper.type': stored"),
        ({"init_from": ".", "mixing": "cnn"}, r"'mixing': 'init_from' brings it"),
        ({"image_encoder_type": TWO, "mixing": "cnn", "objective": "language"}, r"'mixing': of captioners"),
    ],
)
def test_what_does_not_go_together_is_told_before_a_weight_is_loaded(told, flags, message):
    with pytest.raises(UsageError) as error:
        settled({**told, "language_model": {"name": "gpt2"}}, **flags)
    assert re.search(message, str(error.value)), error.value
