from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from git_caption.captioner import checkpoint, weight_sources
from git_caption.captioner.captioner import Captioner
from git_caption.errors import WeightsError
from git_caption.params.model import WeightsSource
from tests.small_captioner import adapted

PROMPTS = {"num_beams": 3, "max_new_tokens": 8}


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize(("mapper", "output"), [("mlp", "pooled"), ("linearLn", "grid"), ("transformer", "grid")])
def test_what_is_saved_is_loaded_bit_for_bit(family, mapper, output, make_captioner, pictures, tmp_path):
    first = make_captioner(family, mapper, output)
    first.save(tmp_path / "model")
    second = Captioner.load(tmp_path / "model", device="cpu")
    ours, theirs = first.network.state_dict(), second.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert second.caption(pictures, **PROMPTS) == first.caption(pictures, **PROMPTS)
    second.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_names_are_those_of_the_parts_and_tied_weights_come_once(make_captioner, tmp_path):
    make_captioner().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"image_encoder", "mapper", "language_model"}
    assert "language_model.lm_head.weight" in tensors
    assert "language_model.transformer.wte.weight" not in tensors


def test_all_files_are_as_readable_as_the_umask_says(make_captioner, tmp_path):
    before = os.umask(0o027)
    try:
        make_captioner().save(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640}, modes


def test_the_config_holds_all_that_is_needed(make_captioner, tmp_path):
    captioner = make_captioner()
    captioner.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["language_model"]["architecture"]["model_type"] == "gpt2"
    assert set(config["versions"]) == {"torch", "transformers", "open_clip"}
    assert torch.__version__.startswith(config["versions"]["torch"].split("+")[0])
    assert config["transform"]["resolution"] == 32
    assert checkpoint.load_config(tmp_path).mapper == captioner.config.mapper


def changed(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_all_that_does_not_fit_is_listed_together(make_captioner, tmp_path):
    make_captioner().save(tmp_path)

    def change(tensors):
        del tensors["mapper.model.0.weight"]
        tensors["mapper.model.9.weight"] = torch.zeros(2)
        tensors["image_encoder.visual.proj"] = torch.zeros(64, 13)

    changed(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        Captioner.load(tmp_path)
    message = str(caught.value)
    assert "1 missing (mapper.model.0.weight)" in message
    assert "1 unexpected (mapper.model.9.weight)" in message
    assert "1 misshapen (image_encoder.visual.proj is (64, 13), expected (64, 12))" in message


def test_either_name_of_tied_weights_will_do_and_both_if_equal(make_captioner, tmp_path):
    captioner = make_captioner()
    captioner.save(tmp_path)
    head, embedding = "language_model.lm_head.weight", "language_model.transformer.wte.weight"
    changed(tmp_path, lambda tensors: tensors.update({embedding: tensors[head].clone()}))
    both = Captioner.load(tmp_path).network.language_model
    changed(tmp_path, lambda tensors: tensors.pop(head))
    one = Captioner.load(tmp_path).network.language_model
    for model in (both, one):
        assert torch.equal(model.lm_head.weight, captioner.network.language_model.lm_head.weight)
    changed(tmp_path, lambda tensors: tensors.update({head: tensors[embedding] + 1}))
    with pytest.raises(WeightsError, match=rf"1 tied but different \({head} and {embedding}\)"):
        Captioner.load(tmp_path)


def test_a_config_that_cannot_be_read_says_why(make_captioner, tmp_path):
    make_captioner().save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "fusion": "sideways", "colour": "red"}))
    with pytest.raises(WeightsError, match=r"unknown key 'colour'.*'fusion'.*'sideways'"):
        checkpoint.load_config(tmp_path)
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"config.json: not readable JSON: Expecting"):
        checkpoint.load_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("5", "holds a int, expected an object"),
        ("null", "holds a NoneType, expected an object"),
        ("[]", "holds a list, expected an object"),
        ('"x"', "holds a str, expected an object"),
        ("[" * 100_000, "not readable JSON: "),
        ('{"model_type": ["a"]}', r"is not a captioner's \(model_type \['a'\]\)"),
        ('{"architectures": ["BlipForQuestionAnswering"]}', r"is not a captioner's \(no image_encoder\)"),
    ],
)
def test_a_config_that_describes_no_captioner_is_named(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"{tmp_path}.* {message}") as caught:
        Captioner.load(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_an_incomplete_checkpoint_says_what_is_missing(make_captioner, tmp_path):
    make_captioner().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model.safetensors beside config.json"):
        Captioner.load(tmp_path)


def with_frozen_parts(captioner: Captioner, language_model: Path, folder: Path, **digests: str) -> Captioner:
    """The captioner with its encoder in a file of its own and its language model in its folder."""
    weights = folder / "encoder.safetensors"
    visual = captioner.network.image_encoder.visual.state_dict()
    save_file({f"visual.{name}": tensor.contiguous() for name, tensor in visual.items()}, weights)
    config = replace(
        captioner.config,
        image_encoder=replace(
            captioner.config.image_encoder, weights=WeightsSource(id=str(weights), sha256=digests.get("encoder"))
        ),
        language_model=replace(
            captioner.config.language_model, weights=WeightsSource(id=str(language_model), sha256=digests.get("lm"))
        ),
    )
    return Captioner(config, captioner.network, captioner.tokenizer)


def test_frozen_parts_are_referred_to_and_checked(make_captioner, language_models, pictures, tmp_path):
    captioner = make_captioner()
    digest = hashlib.sha256((language_models["gpt2"] / "model.safetensors").read_bytes()).hexdigest()
    frozen = with_frozen_parts(captioner, language_models["gpt2"], tmp_path, lm=digest)
    frozen.save(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert names and all(name.startswith("mapper.") for name in names)
    loaded = Captioner.load(tmp_path / "model")
    assert loaded.caption(pictures, **PROMPTS) == captioner.caption(pictures, **PROMPTS)

    with_frozen_parts(captioner, language_models["gpt2"], tmp_path, lm="0" * 64).save(tmp_path / "model")
    with pytest.raises(WeightsError, match=rf"sha256 {digest}, expected {'0' * 64}"):
        Captioner.load(tmp_path / "model")
    with_frozen_parts(captioner, language_models["gpt2"], tmp_path, encoder="1" * 64).save(tmp_path / "model")
    with pytest.raises(WeightsError, match=rf"encoder.safetensors: the weights at .* expected {'1' * 64}"):
        Captioner.load(tmp_path / "model")


def test_the_sum_of_a_checkpoint_is_that_of_what_can_change_a_text(make_captioner, tmp_path):
    captioner = make_captioner()
    captioner.save(tmp_path / "model")
    first = weight_sources.weights_sha256(tmp_path / "model")
    (tmp_path / "model" / "captions.json").write_text("[]")
    (tmp_path / "model" / "last").mkdir()
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    assert (
        weight_sources.weights_sha256(tmp_path / "model") == weight_sources.weights_sha256(tmp_path / "moved") == first
    )
    prints = {Captioner.load(tmp_path / name).fingerprint for name in ("model", "moved")}
    assert len(prints) == 1
    changed(tmp_path / "moved", lambda tensors: tensors["mapper.model.0.bias"].add_(1))
    assert weight_sources.weights_sha256(tmp_path / "moved") != first
    assert Captioner.load(tmp_path / "moved").fingerprint not in prints
    file = tmp_path / "model" / "model.safetensors"
    assert weight_sources.weights_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_saving_leaves_the_other_files_of_the_folder(make_captioner, tmp_path):
    (tmp_path / "journal.csv").write_text("step,loss\n")
    make_captioner(seed=1).save(tmp_path)
    (tmp_path / "tokenizer" / "of_the_old_one.txt").write_text("old")
    make_captioner(seed=2).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "journal.csv",
        "model.safetensors",
        "tokenizer",
    ]
    assert not (tmp_path / "tokenizer" / "of_the_old_one.txt").exists()


class Killed(BaseException):
    """Stands for SIGKILL: nothing in `save` catches it."""


@pytest.mark.parametrize("with_adapter", ["old", "new"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_one(
    with_adapter, make_captioner, pictures, tmp_path, monkeypatch
):
    old, new = make_captioner("gpt2", seed=1), make_captioner("opt", "linearLn", "grid", seed=2)
    old, new = (adapted(old), new) if with_adapter == "old" else (old, adapted(new))
    names = ["adapter"] if with_adapter == "new" else []
    texts = {old.caption(pictures, **PROMPTS)[0]: "old", new.caption(pictures, **PROMPTS)[0]: "new"}
    assert len(texts) == 2
    seen = []
    for last in range(50):
        folder = tmp_path / str(last)
        old.save(folder)
        with monkeypatch.context() as patch, pytest.raises(Killed) as caught:
            left = last

            def counted(function):
                def call(*given, **named):
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Killed
                    return function(*given, **named)

                return call

            for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync"):
                patch.setattr(os, name, counted(getattr(os, name)))
            new.save(folder)
            raise Killed("after the last operation")
        seen.append(texts[Captioner.load(folder).caption(pictures, **PROMPTS)[0]])
        new.save(folder)  # the next save clears up what was left
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer", *names}
        if caught.value.args:
            break
    assert caught.value.args and seen == sorted(seen, reverse=True)
    assert seen.count("old") > 5 and seen.count("new") > 5, seen
