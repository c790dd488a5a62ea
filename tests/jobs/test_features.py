"""The job that stores features, and captions from what it stored, against captions from the images."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from git_caption import Captioner
from git_caption.errors import DataError, JobFailed, UsageError
from git_caption.jobs.features import extract
from git_caption.jobs.infer import single_tsv
from git_caption.model.activation import OPENAI_MARKS
from git_caption.model.git import TextBatch
from git_caption.model.vision import Features, build_image_encoder
from git_caption.params.features import ExtractParams
from git_caption.params.infer import SingleTsvParams
from git_caption.params.model import ImageEncoderConfig, WeightsSource
from git_caption.params.schema import faults, parse
from git_caption.samples.features import FeatureCache, padded
from git_caption.samples.image_tsv import ImageTsvSource
from git_caption.samples.open_data import open_data
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import CaptionRow, ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests.pretrained_models import blip
from tests.small_captioner import small_captioner
from tests.written_clip import clip_file

ROOT = Path(__file__).resolve().parents[2]
COLORS = [(220, 30, 30), (20, 200, 60), (30, 40, 210), (240, 240, 90), (5, 5, 5)]
MAPPERS = {"grid": "linear", "pooled": "mlp"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints by what their image encoders give."""
    folder = tmp_path_factory.mktemp("models")
    for output, mapper in MAPPERS.items():
        small_captioner(folder / f"lm {output}", mapper=mapper, output=output).save(folder / output)
    return folder


@pytest.fixture
def image_tsv(tmp_path):
    path = tmp_path / "images.tsv"
    with TsvWriter(path) as writer:
        for number, color in enumerate(COLORS):
            image = Image.new("RGB", (40 + 16 * number, 32), color)
            image.paste((255, 255, 255), (3 * number, 4, 3 * number + 12, 20))
            image.save(tmp_path / "image.png")
            writer.write(ImageRow(f"k{number}", (tmp_path / "image.png").read_bytes()).columns())
    return str(path)


@pytest.fixture
def question_tsv(tmp_path):
    path = tmp_path / "questions.tsv"
    with TsvWriter(path) as writer:
        for number in range(len(COLORS)):
            asked = tuple(Question(f"{number}-{n}", text) for n, text in enumerate(("what?", "how many of them?")))
            writer.write(QuestionRow(f"k{number}", asked).columns())
    return str(path)


def extracted(out: Path, image_tsv: str | None, **keys) -> FeatureCache:
    given = {"image_tsv": image_tsv, "out": str(out), "device": "cpu", "num_workers": 0, "batch_size": 2, **keys}
    extract(parse(ExtractParams, given, "job"))
    return FeatureCache(out)


def captioned(out: Path, **keys) -> bytes:
    given = {"out_tsv": str(out), "device": "cpu", "num_workers": 0, "batch_size": 2, **keys}
    single_tsv(parse(SingleTsvParams, given, "job"))
    return out.read_bytes()


@pytest.mark.parametrize("keys", [{}, {"test_respect_ratio_max": 640}])
@pytest.mark.parametrize("output", MAPPERS)
def test_float32_features_are_those_of_the_images_bit_for_bit(models, image_tsv, tmp_path, capsys, output, keys):
    if output == "pooled" and keys:
        keys = {"test_crop_size": 48}
    model = str(models / output)
    cache = extracted(tmp_path / "f", image_tsv, model_path=model, stored_as="float32", **keys)
    captioner = Captioner.load(model, device="cpu", **keys)
    source = ImageTsvSource(image_tsv, None, captioner.reader)
    direct = captioner.encode_many([source.read(row).pixels for row in range(5)], 2)
    assert len(cache) == 5
    for row in range(5):
        assert cache[row].key == f"k{row}"
        assert np.array_equal(cache[row].values, direct.values[row, direct.mask[row]].numpy())
    lengths = {len(cache[row].values) for row in range(5)}
    assert len(lengths) == (5 if "test_respect_ratio_max" in keys else 1)
    assert f"f: features float32{[5, cache.tokens, cache.width]}, " in capsys.readouterr().out


def test_float16_features_are_within_their_rounding(models, image_tsv, tmp_path):
    model = str(models / "grid")
    whole = extracted(tmp_path / "whole", image_tsv, model_path=model, stored_as="float32")
    half = extracted(tmp_path / "half", image_tsv, model_path=model)
    assert half.block.values.dtype == np.float16
    assert half.block.values.nbytes * 2 == whole.block.values.nbytes
    assert np.array_equal(half.block.values, whole.block.values.astype(np.float16))
    assert np.abs(half.block.values - whole.block.values).max() <= 2**-11 * np.abs(whole.block.values).max()


@pytest.mark.parametrize(("stored_as", "within"), [("float32", 0.0), ("float16", 1e-3)])
def test_losses_from_features_are_those_from_images(models, image_tsv, tmp_path, stored_as, within):
    given = {"model_path": str(models / "grid"), "test_respect_ratio_max": 640}
    cache = extracted(tmp_path / "f", image_tsv, stored_as=stored_as, **given)
    captioner = Captioner.load(models / "grid", device="cpu", test_respect_ratio_max=640)
    source = ImageTsvSource(image_tsv, None, captioner.reader)
    direct = captioner.encode_many([source.read(row).pixels for row in range(5)], 2)
    values, mask = padded([cache[row].values for row in range(5)])
    stored = Features(torch.from_numpy(values), torch.from_numpy(mask))
    batch = TextBatch([[1, 2]] * 5, [[5, 6, 7], [8], [9, 10], [11, 12], [13]])
    with torch.inference_mode():
        losses = [-captioner.network.token_logprobs(features, batch).sum() / 9 for features in (direct, stored)]
    assert abs(losses[0] - losses[1]) <= within * losses[0]


@pytest.mark.parametrize("what", ["features", "prefix"])
@pytest.mark.parametrize("keys", [{}, {"test_respect_ratio_max": 640}])
def test_texts_from_features_are_those_from_images(models, image_tsv, question_tsv, tmp_path, what, keys):
    given = {"model_path": str(models / "grid"), **keys}
    extracted(tmp_path / "f", image_tsv, stored_as="float32", what=what, **given)
    for asked in ({}, {"question_tsv": question_tsv}):
        from_images = captioned(tmp_path / "i.tsv", image_tsv=image_tsv, **given, **asked)
        assert captioned(tmp_path / "f.tsv", features=str(tmp_path / "f"), **given, **asked) == from_images
        assert len(set(from_images.splitlines())) == (10 if asked else 5)


def test_the_image_encoder_is_not_asked_where_there_are_features(models, image_tsv, tmp_path, monkeypatch):
    model = str(models / "pooled")
    extracted(tmp_path / "f", image_tsv, model_path=model)
    monkeypatch.setattr(Captioner, "encode", None)
    monkeypatch.setattr(Captioner, "encode_many", None)
    assert len(captioned(tmp_path / "f.tsv", model_path=model, features=str(tmp_path / "f")).splitlines()) == 5


def test_a_row_that_fails_is_listed_and_its_place_is_kept(models, image_tsv, question_tsv, tmp_path, capsys):
    model = str(models / "pooled")
    lines = Path(image_tsv).read_text().splitlines()
    lines[2] = "k2\tPGh0bWw+"
    Path(image_tsv).write_text("\n".join(lines) + "\n")
    cache = extracted(tmp_path / "f", image_tsv, model_path=model)
    assert [len(cache[row].values) for row in range(5)] == [1, 1, 0, 1, 1]
    assert (tmp_path / "f.errors.tsv").read_text().startswith(f"3\tk2\t{image_tsv}:3: ")
    assert "1 rows skipped, listed in" in capsys.readouterr().out
    texts = captioned(tmp_path / "c.tsv", model_path=model, features=str(tmp_path / "f")).splitlines()
    assert texts[2] == b'k2\t[{"caption":""}]' and len(texts) == 5
    reason = "the image could not be processed when the features were made"
    assert (tmp_path / "c.tsv.errors.tsv").read_text() == f"3\tk2\t{tmp_path}/f:3: {reason}\n"
    asked = {"model_path": model, "features": str(tmp_path / "f"), "question_tsv": question_tsv}
    answers = captioned(tmp_path / "a.tsv", **asked).splitlines()
    assert answers[4] == b'{"answer":"","question_id":"2-0"}' and len(answers) == 10
    with pytest.raises(DataError, match=r"images\.tsv:3: .*\(row 3, key 'k2'\)"):
        extracted(tmp_path / "g", image_tsv, model_path=model, on_error="raise")


def test_where_no_image_can_be_encoded_an_older_cache_is_left(models, tmp_path):
    with TsvWriter(tmp_path / "broken.tsv") as writer:
        writer.write(ImageRow("a", b"broken").columns())
    (tmp_path / "f").write_bytes(b"of an earlier run")
    with pytest.raises(JobFailed, match="none of the 1 rows could be used"):
        extracted(tmp_path / "f", str(tmp_path / "broken.tsv"), model_path=str(models / "pooled"))
    assert (tmp_path / "f").read_bytes() == b"of an earlier run"


def test_questions_about_other_images_are_refused(models, image_tsv, question_tsv, tmp_path):
    given = {"model_path": str(models / "pooled"), "features": str(tmp_path / "f"), "question_tsv": question_tsv}
    extracted(tmp_path / "f", image_tsv, model_path=given["model_path"])
    lines = Path(question_tsv).read_text().splitlines(keepends=True)
    Path(question_tsv).write_text("".join(lines[:4]))
    with pytest.raises(DataError, match=r"/f has 5 rows and .*questions\.tsv has 4; expected one row of questions"):
        captioned(tmp_path / "a.tsv", **given)
    Path(question_tsv).write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match=r"questions\.tsv:1: the key is 'k1', and 'k0' in .*/f:1; expected the same"):
        captioned(tmp_path / "a.tsv", **given)


def test_features_of_another_encoder_or_other_pixels_are_refused(models, image_tsv, tmp_path):
    extracted(tmp_path / "f", image_tsv, model_path=str(models / "grid"))
    features = {"features": str(tmp_path / "f")}
    with pytest.raises(UsageError, match=r"/f: not the features of .*/pooled: .*output 'grid' there, 'pooled' in it"):
        captioned(tmp_path / "c.tsv", model_path=str(models / "pooled"), **features)
    with pytest.raises(UsageError, match=r"transform\.resolution 32 there, 48 in it; make them anew with it"):
        captioned(tmp_path / "c.tsv", model_path=str(models / "grid"), test_crop_size=48, **features)
    assert not (tmp_path / "c.tsv").exists()


def test_prefixes_of_another_mapper_are_refused(models, image_tsv, tmp_path):
    extracted(tmp_path / "f", image_tsv, model_path=str(models / "grid"), what="prefix")
    captioner = Captioner.load(models / "grid", device="cpu")
    with torch.no_grad():
        next(captioner.network.mapper.parameters()).add_(0.1)
    captioner.save(tmp_path / "other")
    with pytest.raises(UsageError, match=r"/f: not the prefix of .*/other: mapper \w{12}\.\.\. there, \w{12}\.\.\. in"):
        captioned(tmp_path / "c.tsv", model_path=str(tmp_path / "other"), features=str(tmp_path / "f"))


@pytest.fixture
def named_encoder(tmp_path):
    """A file of CLIP's weights, as wide as the encoder of the pooled checkpoint, and keys that ask for it."""
    weights = tmp_path / "clip.safetensors"
    torch.manual_seed(5)
    marks = {name: torch.tensor(32) for name in OPENAI_MARKS}
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64}
    clip_file(weights, vision, embed_dim=12, **marks)
    return weights, {"image_encoder_type": str(weights), "output_grid": False, "stored_as": "float32"}


def test_an_encoder_by_its_name_gives_grid_or_pooled(named_encoder, image_tsv, tmp_path):
    weights, keys = named_encoder
    pooled = extracted(tmp_path / "f", image_tsv, **keys)
    assert (pooled.description.origin.output, pooled.tokens, pooled.width) == ("pooled", 1, 12)
    assert pooled.description.origin.transform.resolution == 32
    grid = extracted(tmp_path / "g", image_tsv, image_encoder_type=str(weights), input_resolution=48)
    assert (grid.description.origin.output, grid.tokens, grid.width) == ("grid", 10, 64)
    assert grid.description.origin.transform.resolution == 48


def test_features_of_an_encoder_by_its_name_are_those_of_a_captioner_that_refers_to_it(
    models, named_encoder, image_tsv, tmp_path
):
    weights, keys = named_encoder
    cache = extracted(tmp_path / "f", image_tsv, **keys)
    captioner = Captioner.load(models / "pooled", device="cpu")
    frozen = ImageEncoderConfig(name=str(weights), output="pooled", weights=WeightsSource(str(weights)))
    captioner.network.image_encoder = build_image_encoder(frozen, weights)
    transform = cache.description.origin.transform
    captioner.config = replace(captioner.config, image_encoder=frozen, transform=transform)
    captioner.save(tmp_path / "model")
    given = {"model_path": str(tmp_path / "model")}
    from_images = captioned(tmp_path / "i.tsv", image_tsv=image_tsv, **given)
    assert captioned(tmp_path / "f.tsv", features=str(tmp_path / "f"), **given) == from_images
    assert len(set(from_images.splitlines())) == 5


def test_features_for_an_old_tools_file(shared_data, image_tsv, tmp_path):
    old = shared_data / "legacy" / "kevin_vit_pooled_mlp_gpt2"
    given = {"model_path": str(old / "model_4.pt"), "language_model": str(old / "lm")}
    cache = extracted(tmp_path / "f", image_tsv, stored_as="float32", **given)
    assert not cache.description.origin.transform.exif
    from_images = captioned(tmp_path / "i.tsv", image_tsv=image_tsv, **given)
    assert captioned(tmp_path / "f.tsv", features=str(tmp_path / "f"), **given) == from_images


def test_another_command_on_unfinished_parts_is_refused(models, image_tsv, tmp_path, monkeypatch):
    from git_caption.pipeline.extraction import Extraction

    keys = {"model_path": str(models / "pooled")}
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(Extraction, "__call__", lambda self, samples: (_ for _ in ()).throw(RuntimeError("ended")))
        extracted(tmp_path / "f", image_tsv, **keys)
    with pytest.raises(UsageError, match=r"stored_as: float16 then, float32 now\); run it again as it was"):
        extracted(tmp_path / "f", image_tsv, stored_as="float32", **keys)
    assert len(extracted(tmp_path / "f", image_tsv, **keys)) == 5


def test_a_job_that_is_killed_goes_on_to_the_same_bytes(models, image_tsv, tmp_path):
    many = tmp_path / "many.tsv"
    with TsvWriter(many) as writer:
        for number in range(1100):
            writer.write([f"n{number}", TsvFile(image_tsv)[number % 5][1]])
    literal = {"type": "extract_features", "model_path": str(models / "grid"), "image_tsv": str(many), "device": "cpu"}

    def started(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "inference.py"), "-p", repr({**literal, "out": str(out)})]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)

    process = started(tmp_path / "f")
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("f.parts/*.safetensors"))) < 1 and process.poll() is None:
        assert time.monotonic() < end, "no chunk was committed in time"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(list(tmp_path.glob("f.parts/*.safetensors")))
    assert kept >= 1 and not (tmp_path / "f").exists()
    process = started(tmp_path / "f")
    assert f"{kept} of 5 chunks from an earlier run" in process.communicate()[0]
    assert started(tmp_path / "whole").wait() == 0
    assert (tmp_path / "f").read_bytes() == (tmp_path / "whole").read_bytes()


def test_data_to_train_on_is_encoded_in_its_own_order(models, image_tsv, tmp_path):
    (tmp_path / "pictures").mkdir()
    images = TsvFile(image_tsv)
    for row in (4, 0, 2):
        (tmp_path / "pictures" / f"{row}.png").write_bytes(base64.b64decode(images[row][1]))
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\n" + "".join(f"pictures/{row}.png,about {row}\n" for row in (4, 0, 2)))
    keys = {"model_path": str(models / "grid"), "stored_as": "float32", "batch_size": 1}
    whole = extracted(tmp_path / "whole", image_tsv, **keys)
    data = open_data(table)
    cache = extracted(tmp_path / "f", None, data=str(table), **keys)
    assert len(cache) == 3
    for row, number in enumerate((4, 0, 2)):
        assert np.array_equal(cache.values(row, data.texts(row).key), whole[number].values)
    cache.check_inputs(data.inputs)
    table.write_text(table.read_text() + "\n")
    with pytest.raises(UsageError, match=r"made from \S+captions\.csv of .*, and that is now"):
        cache.check_inputs(data.inputs)


def test_of_tsvs_the_captions_may_change(models, image_tsv, tmp_path):
    (tmp_path / "a.img.tsv").write_bytes(Path(image_tsv).read_bytes())
    with TsvWriter(tmp_path / "a.caption.tsv") as writer:
        for number in range(5):
            writer.write(CaptionRow(f"k{number}", ("a caption",)).columns())
    cache = extracted(tmp_path / "f", None, data=str(tmp_path / "a.img.tsv"), model_path=str(models / "grid"))
    assert [entry["path"] for entry in cache.description.inputs] == [str(tmp_path / "a.img.tsv")]
    (tmp_path / "a.caption.tsv").write_bytes(b"")
    cache.check_inputs([tmp_path / "a.img.tsv", tmp_path / "a.caption.tsv"])


def test_a_pretrained_captioner_has_no_features_to_store(image_tsv, tmp_path):
    folder = blip(tmp_path / "blip")
    with pytest.raises(UsageError, match=r"blip: a pretrained captioner, whose features are not stored; expected one"):
        extracted(tmp_path / "f", image_tsv, model_path=str(folder))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": "data/shapes"}, "expected 'image_tsv' or 'data', one of the two"),
        ({"split": "train"}, "'split': goes with 'data'"),
        ({}, "missing key 'model_path' (a captioner whose image encoder is meant) or 'image_encoder_type' (an image"),
        ({"image_encoder_type": "RN50", "mapping_type": "mlp"}, "'mapping_type': goes with 'model_path', and"),
        ({"image_encoder_type": "RN50", "what": "prefix"}, "'what': a prefix is made by a captioner's mapper"),
        ({"image_encoder_type": "RN50", "device_map": "auto"}, "'device_map': is of a captioner's language model"),
        ({"model_path": "a/b", "model_name": "GIT_BASE"}, "'model_path' and 'model_name' exclude each other"),
        ({"model_path": "a/b", "stored_as": "int8"}, "'stored_as': expected one of float16, float32"),
    ],
)
def test_keys_that_do_not_fit_are_told(image_tsv, tmp_path, keys, message):
    if "data" in keys or "split" in keys:
        keys = {"model_path": "a/b", **keys}
    found = faults(ExtractParams, {"image_tsv": image_tsv, "out": str(tmp_path / "f"), **keys}, "job")
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "missing key 'image_tsv', or 'features' in its place"),
        (("image_tsv", "features"), "'image_tsv' and 'features' exclude each other; give one of them"),
    ],
)
def test_inference_takes_images_or_features(image_tsv, tmp_path, keys, message):
    given = {"model_path": "a/b", "out_tsv": str(tmp_path / "o.tsv"), **dict.fromkeys(keys, image_tsv)}
    assert [line for line in faults(SingleTsvParams, given, "job") if message in line]


def test_an_image_tsv_in_place_of_features_is_refused(models, image_tsv, tmp_path):
    with pytest.raises(DataError, match=r"images\.tsv: expected a feature cache, as 'extract_features' writes it"):
        captioned(tmp_path / "c.tsv", model_path=str(models / "grid"), features=image_tsv)
