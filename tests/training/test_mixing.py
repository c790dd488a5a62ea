"""Several image encoders in `train.py`, and prefixes that other captioners have stored: what is learnt and refused."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from git_caption.captioner.captioner import Captioner, Features
from git_caption.errors import DataError, UsageError
from git_caption.jobs import main as jobs
from git_caption.jobs.shapes import make
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import PromptConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.samples.collate import Collate
from git_caption.samples.features import FeatureCache
from git_caption.samples.joint_features import open_features
from git_caption.samples.training_data import Texts, TrainingSample
from git_caption.text.tokenizer import load_tokenizer
from git_caption.training.main import main
from git_caption.training.mixed import stored_sources
from git_caption.tsv.file import TsvFile
from tests import hub_cache, pretrained_models
from tests.small_captioner import small_captioner
from tests.written_clip import clip_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "mixing.yaml"
TRANSFORMER = ["--mapper.type", "transformer", "--mapper.heads", "2", "--num_layers", "1"]
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
VIT = {"image_size": 48, "layers": 1, "width": 64, "patch_size": 16}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make(ShapesDataParams(out_dir=str(folder), train=16, test=4))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Two image encoders that see images in ways of their own, `resnet` and `vit`, and a language model, `opt`."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    for name, vision, seen in (("resnet", RESNET, {}), ("vit", VIT, HALVES)):
        (folder / name).mkdir()
        clip_file(folder / name / "model.safetensors", vision, embed_dim=24)
        model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision}
        described = {"model_cfg": model, "preprocess_cfg": seen}
        (folder / name / "open_clip_config.json").write_text(json.dumps(described))
    hub_cache.language_model(folder / "opt", "opt")
    return folder


def names(parts) -> str:
    return f"{parts / 'resnet' / 'model.safetensors'},{parts / 'vit' / 'model.safetensors'}"


def job(kind: str, **keys) -> int:
    running = {} if kind == "export" else {"num_workers": 0, "device": "cpu"}
    return jobs.main(["-p", json.dumps({"type": kind, **running, **keys})])


def extracted(data, parts, out: Path, split: str = "train", **keys) -> str:
    """The features of both encoders, as `features` takes them."""
    files = []
    for number, name in enumerate(names(parts).split(",")):
        files.append(str(out / f"{split}-{number}.features"))
        told = {"image_tsv": str(data / f"{split}.img.tsv"), "stored_as": "float32", "image_encoder_type": name, **keys}
        assert job("extract_features", out=files[-1], **told) == 0
    return ",".join(files)


def run(data, parts, out, *flags: str) -> int:
    pictures = ["--image_tsv", str(data / "train.img.tsv"), "--caption_tsv", str(data / "train.caption.tsv")]
    common = ["-lm", str(parts / "opt"), "--output_dir", str(out), "--bs", "8", "--lr", "1e-2", "--device", "cpu"]
    return main([*pictures, *common, "--epochs", "3", "--warmup_steps", "0", "--num_workers", "0", *flags])


def captions(path: Path) -> list[list[str]]:
    with TsvFile(path) as rows:
        return list(rows)


def test_several_encoders_learn_from_images_as_from_the_stored_features_of_each(data, parts, tmp_path, capsys):
    features = extracted(data, parts, tmp_path, output_grid=False)
    told = ["-iet", names(parts), "--output_grid", "False", "-mpt", "mlp", "--prefix_length", "3", "--mixing", "hprod"]
    assert run(data, parts, tmp_path / "images", *told, "--loss_save_path", str(tmp_path / "images.npy")) == 0
    stored = ["--features", features, "--loss_save_path", str(tmp_path / "stored.npy")]
    assert run(data, parts, tmp_path / "stored", *told, *stored) == 0, capsys.readouterr().err

    losses = np.load(tmp_path / "images.npy")
    assert np.allclose(losses, np.load(tmp_path / "stored.npy"), rtol=0, atol=1e-4)
    assert len(losses) == 6 and losses[4:].mean() < losses[:2].mean()

    captioner = Captioner.load(tmp_path / "images", device="cpu")
    first, second = captioner.config.encoders
    assert (first.transform.resolution, second.transform.resolution) == (64, 48)
    assert second.transform.mean == (0.5,) * 3 and second.transform.resize == "squash"
    tensors = load_file(tmp_path / "images" / "model.safetensors")
    assert tensors["mapper.mixing.weight"].shape == (1, 2, 3, 16)
    assert {name.split(".")[2] for name in tensors if name.startswith("mapper.mappers.")} == {"0", "1"}
    assert not any(name.startswith("image_encoder.") for name in tensors)

    features = extracted(data, parts, tmp_path, "test", output_grid=False)
    common = {"model_path": str(tmp_path / "images"), "max_new_tokens": 6}
    assert job("test_git_inference_single_tsv", features=features, out_tsv=str(tmp_path / "a.tsv"), **common) == 0
    pictures = {"image_tsv": str(data / "test.img.tsv"), "out_tsv": str(tmp_path / "b.tsv")}
    assert job("test_git_inference_single_tsv", **pictures, **common) == 0
    assert captions(tmp_path / "a.tsv") == captions(tmp_path / "b.tsv")
    assert job("export", model_path=str(tmp_path / "images"), out_dir=str(tmp_path / "whole")) == 0
    whole = {"model_path": str(tmp_path / "whole"), "out_tsv": str(tmp_path / "c.tsv")}
    assert job("test_git_inference_single_tsv", **{**pictures, **common, **whole}) == 0
    assert captions(tmp_path / "c.tsv") == captions(tmp_path / "b.tsv")


def stored_prefixes(data, parts, out: Path, split: str = "train") -> str:
    """Of a BLIP-2 and a captioner on OPT, as `features` takes them."""
    if not (parts / "blip2").is_dir():
        pretrained_models.blip2(parts / "blip2")
        small_captioner(parts / "language model", "opt", "mlp").save(parts / "captioner")
    files = []
    for name in ("blip2", "captioner"):
        files.append(str(out / f"{name}.{split}.prefixes"))
        told = {"model_path": str(parts / name), "image_tsv": str(data / f"{split}.img.tsv"), "stored_as": "float32"}
        assert job("extract_features", out=files[-1], what="prefix", **told) == 0
    return ",".join(files)


def test_the_mixing_alone_is_trained_on_prefixes_that_others_have_stored(data, parts, tmp_path, capsys):
    features = stored_prefixes(data, parts, tmp_path)
    val = ["--val_image_tsv", str(data / "test.img.tsv"), "--val_caption_tsv", str(data / "test.caption.tsv")]
    val += ["--val_features", stored_prefixes(data, parts, tmp_path, "test")]
    capsys.readouterr()
    assert (
        run(data, parts, tmp_path / "mixed", "--model_key", "cnn", "--features", features, *val, "--epochs", "1") == 0
    )
    said = capsys.readouterr().out
    assert "preset nice" in said and "; 2 of " in said

    stored = load_file(tmp_path / "mixed" / "model.safetensors")
    assert list(stored) == ["mapper.mixing.weight"] and stored["mapper.mixing.weight"].shape == (1, 2, 1, 1)
    captioner = Captioner.load(tmp_path / "mixed", device="cpu")
    assert captioner.config.prompt.caption == "a photo of"
    given = [FeatureCache(path) for path in features.split(",")]
    first, second = (torch.from_numpy(np.array(cache.block.values)) for cache in given)
    joined = torch.cat([first.flatten(1), second.flatten(1)], dim=1)[:, None]
    found, _ = captioner.network.prefix(Features(joined, torch.ones(16, 1, dtype=torch.bool)))
    one, two = stored["mapper.mixing.weight"].flatten()
    assert torch.allclose(found, one * first + two * second, atol=1e-6)
    assert captioner.decoding(DecodingParams(), "caption").stop == ("\n",)

    model, out = {"model_path": str(tmp_path / "mixed")}, {"out_tsv": str(tmp_path / "out.tsv")}
    assert job("test_git_inference_single_tsv", features=features, **model, **out) == 0
    assert len(captions(tmp_path / "out.tsv")) == 16
    capsys.readouterr()
    assert job("test_git_inference_single_tsv", image_tsv=str(data / "test.img.tsv"), **model, **out) == 2
    assert "give 'features'" in capsys.readouterr().err
    before = ["--init_from", str(tmp_path / "mixed"), "--output_dir", str(tmp_path / "on"), "--device", "cpu"]
    before += ["--image_tsv", str(data / "train.img.tsv"), "--caption_tsv", str(data / "train.caption.tsv")]
    assert main(before) == 2
    assert "no image is looked at: give 'features'" in capsys.readouterr().err
    assert main([*before, "--features", features, *val[:4]]) == 2
    assert "('val_features' in a validation set)" in capsys.readouterr().err
    other_order = ",".join(reversed(features.split(",")))
    assert job("test_git_inference_single_tsv", features=other_order, **model, **out) == 2
    assert "name the files in the order of the image encoders" in capsys.readouterr().err


def test_the_prefixes_of_several_data_sets_are_of_the_same_captioners(data, parts, tmp_path, capsys):
    splits = ("train", "test")
    sets = ",".join(str(data / f"{split}.img.tsv") for split in splits)
    features = ",".join(stored_prefixes(data, parts, tmp_path, split) for split in splits)
    told = ["-lm", str(parts / "opt"), "--bs", "10", "--epochs", "1", "--num_workers", "0", "--device", "cpu"]
    out = ["--output_dir", str(tmp_path / "out")]
    assert main(["--mixing", "cnn", "--data", sets, "--features", features, *told, *out]) == 0, capsys.readouterr().err
    assert load_file(tmp_path / "out" / "model.safetensors")["mapper.mixing.weight"].shape == (1, 2, 1, 1)


def test_the_config_of_this_family_trains(data, parts, tmp_path, capsys):
    told = ["--config", str(CONFIG), "-iet", names(parts), "--epochs", "0.5"]
    assert run(data, parts, tmp_path / "out", *told) == 0, capsys.readouterr().err
    stored = {name.split(".")[0] for name in load_file(tmp_path / "out" / "model.safetensors")}
    assert stored == {"mapper", "language_model"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, r"file 1 is of '.*vit/.*', and image encoder 1 of this run is '.*resnet/.*': name the files in the order"),
        ({"output_grid": False}, r"not the features of this run: output 'pooled' there, 'grid' in it"),
        ({"what": "prefix"}, r"holds prefixes, which the mapper that is trained makes"),
    ],
)
def test_features_of_others_are_refused(changed, message, data, parts, tmp_path, capsys):
    if "what" in changed:
        features = stored_prefixes(data, parts, tmp_path)
    else:
        features = extracted(data, parts, tmp_path, **changed)
    order = features if changed else ",".join(reversed(features.split(",")))
    told = ["-iet", names(parts), *TRANSFORMER, "--mixing", "cnn"]
    assert run(data, parts, tmp_path / "out", *told, "--features", order) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_files_of_different_images_and_prefixes_of_different_sizes_are_refused(data, parts, tmp_path):
    features = extracted(data, parts, tmp_path).split(",")
    fewer = extracted(data, parts, tmp_path, "test").split(",")
    with pytest.raises(DataError, match=r"has 4 rows and .* has 16: expected features of the same images"):
        open_features(f"{features[0]},{fewer[1]}")

    prefixes = stored_prefixes(data, parts, tmp_path).split(",")
    small_captioner(parts / "language model", "opt", "linear").save(tmp_path / "one row")
    told = {"model_path": str(tmp_path / "one row"), "image_tsv": str(data / "train.img.tsv"), "what": "prefix"}
    assert job("extract_features", out=str(tmp_path / "one row.prefixes"), **told) == 0
    with pytest.raises(
        UsageError, match=r"3 rows of width 16 in .*, 1 rows of width 16 in .*; expected prefixes of one"
    ):
        stored_sources(f"{prefixes[0]},{tmp_path / 'one row.prefixes'}")
    with pytest.raises(UsageError, match=r"holds features, and where no image encoder is named prefixes are mixed"):
        stored_sources(f"{features[0]},{features[1]}")


def test_a_captioner_takes_as_many_files_as_it_has_encoders(data, parts, tmp_path, capsys):
    told = ["-iet", names(parts), *TRANSFORMER, "--mixing", "cnn"]
    assert run(data, parts, tmp_path / "out", *told, "--epochs", "0.5") == 0
    features = extracted(data, parts, tmp_path).split(",")
    common = {"out_tsv": str(tmp_path / "out.tsv"), "max_new_tokens": 4}
    capsys.readouterr()
    assert job("test_git_inference_single_tsv", model_path=str(tmp_path / "out"), features=features[0], **common) == 2
    assert "mixes 2 image encoders: expected a file of each" in capsys.readouterr().err
    model = str(ROOT / "data" / "shapes" / "model")
    assert job("test_git_inference_single_tsv", model_path=model, features=",".join(features), **common) == 2
    assert "2 files, and" in capsys.readouterr().err
    told = {"model_path": str(tmp_path / "out"), "image_tsv": str(data / "test.img.tsv")}
    assert job("extract_features", out=str(tmp_path / "joint.features"), **told) == 2
    assert "lie in a file of each" in capsys.readouterr().err
    assert job("extract_features", out=str(tmp_path / "own.prefixes"), what="prefix", **told) == 0
    own = {"model_path": str(tmp_path / "out"), "features": str(tmp_path / "own.prefixes")}
    assert job("test_git_inference_single_tsv", **own, **common) == 0


def test_a_text_ends_with_the_text_that_ends_texts(data, parts, tmp_path):
    tokenizer = load_tokenizer(parts / "opt")
    prompt = PromptConfig(caption="a photo of", end="\n")
    batch = Collate(tokenizer, prompt, captions=1, questions=0)(
        [(TrainingSample(np.zeros((3, 2, 2), np.uint8), Texts("key", ("a red circle",), ())), random.Random(0))]
    )
    assert tokenizer.decode(batch.target_ids[0]) == " a red circle\n"
