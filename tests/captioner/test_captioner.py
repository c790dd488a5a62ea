from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from git_caption.captioner.captioner import Captioner
from git_caption.captioner.loading import device_of, dtype_of
from git_caption.decoding.generate import Identity
from git_caption.errors import DataError, UsageError, WeightsError
from git_caption.images.decode import decode
from git_caption.params.decoding import Decoding, DecodingParams
from git_caption.params.model import PromptConfig, TransformConfig, WeightsSource
from git_caption.text.tokenizer import decode as spelled
from tests import hub_cache


def test_images_may_be_bytes_paths_or_pictures(make_captioner, pictures):
    captioner = make_captioner()
    expected = captioner.caption(pictures)
    assert len(set(expected)) == 3
    assert captioner.caption([path.read_bytes() for path in pictures]) == expected
    assert captioner.caption([str(path) for path in pictures]) == expected
    assert captioner.caption([Image.open(path) for path in pictures]) == expected


def test_pictures_in_memory_are_treated_as_their_files(make_captioner, tmp_path):
    captioner = make_captioner()
    noise = np.random.default_rng(0).integers(0, 256, (40, 52, 4), dtype=np.uint8)
    saved = {
        "alpha.png": Image.fromarray(noise),
        "palette.png": Image.fromarray(noise[..., :3]).quantize(16),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
        "cmyk.tiff": Image.fromarray(noise, mode="CMYK"),
        "grey.png": Image.fromarray(noise[..., 0]),
        "integers.tiff": Image.fromarray(noise[..., 0].astype(np.int32) * 257),
    }
    for name, image in saved.items():
        image.save(tmp_path / name)
    turned = Image.new("RGB", (40, 52), "red")
    turned.paste("blue", (0, 0, 20, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(captioner.pixels(Image.open(path)), captioner.pixels(path)), path.name
    captioner.config = replace(captioner.config, transform=replace(captioner.config.transform, exif=False))
    as_stored = captioner.pixels(tmp_path / "turned.png")
    assert np.array_equal(captioner.pixels(Image.open(tmp_path / "turned.png")), as_stored)
    assert not np.array_equal(as_stored, captioner.pixels(turned.rotate(-90, expand=True)))


def test_pixels_and_describe_are_the_two_halves_of_caption(make_captioner, pictures):
    captioner = make_captioner()
    pixels = [captioner.pixels(path) for path in pictures] + [captioner.pixels(pictures)]
    assert [array.shape for array in pixels] == [(1, 3, 32, 32)] * 3 + [(3, 3, 32, 32)]
    decoding = captioner.decoding(DecodingParams(), "caption")
    found = captioner.describe(pixels, [""] * 4, decoding, [Identity(str(number)) for number in range(4)])
    assert [texts[0].text for texts in found] == captioner.caption([*pictures, pictures])


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}, {"num_beams": 1}])
def test_texts_depend_neither_on_the_batch_nor_on_the_place(settings, make_captioner, pictures):
    captioner = make_captioner("llama", "linearLn", "grid")
    expected = captioner.caption(pictures, **settings)
    assert captioner.caption(pictures[::-1], batch_size=2, **settings) == expected[::-1]
    assert [captioner.caption([path], **settings)[0] for path in pictures] == expected


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> list[Path]:
    """Image files of five shapes, two of them alike."""
    folder = tmp_path_factory.mktemp("shapes")
    paths = []
    for number, size in enumerate([(64, 40), (40, 64), (50, 50), (64, 40), (130, 40)]):
        noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(noise).resize(size).save(paths[-1])
    return paths


@pytest.mark.parametrize(("mapper", "output"), [("linear", "grid"), ("transformer", "grid"), ("mlp", "pooled")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_many_shapes_get_the_texts_they_get_alone(mapper, output, dtype, make_captioner, shapes):
    captioner = keeping(make_captioner("gpt2", mapper, output))
    captioner.network.to(dtype)
    pixels = [captioner.pixels(path)[0] for path in shapes]
    assert [image.shape for image in pixels] == [(3, 32, 48), (3, 48, 32), (3, 32, 32), (3, 32, 48), (3, 16, 64)]
    alone = [captioner.caption([path])[0] for path in shapes]
    assert len(set(alone)) > 2
    assert captioner.caption(shapes) == alone
    assert captioner.caption(shapes[::-1], batch_size=3) == alone[::-1]

    many = captioner.encode_many(pixels, 2)
    singles = [captioner.encode(image[None]) for image in pixels]
    lengths = [7, 7, 5, 7, 5] if output == "grid" else [1] * 5
    assert many.mask.sum(1).tolist() == lengths
    for row, single in enumerate(singles):
        torch.testing.assert_close(many.values[row, : lengths[row]], single.values[0], atol=1e-5, rtol=1e-5)


def keeping(captioner: Captioner, longest: int = 70) -> Captioner:
    transform = replace(captioner.config.transform, resize="keep", longest=longest)
    captioner.config = replace(captioner.config, transform=transform)
    captioner.network.image_encoder.take(32, any_shape=True)
    return captioner


def test_frames_of_different_shapes_are_no_video(make_captioner, shapes):
    captioner = keeping(make_captioner("gpt2", "linear", "grid"))
    assert captioner.caption([[shapes[0], shapes[3]], shapes[2]])[1] == captioner.caption([shapes[2]])[0]
    with pytest.raises(DataError, match=r"frames of a video differ in shape: .* 32 x 48, 48 x 32; expected one shape"):
        captioner.pixels(shapes[:2])


def test_size_and_shape_of_images_can_be_asked_for_when_loading(make_captioner, shapes, tmp_path):
    make_captioner("gpt2", "linear", "grid").save(tmp_path / "model")
    plain = Captioner.load(tmp_path / "model", device="cpu")
    assert [plain.pixels(path).shape for path in shapes] == [(1, 3, 32, 32)] * 5
    larger = Captioner.load(tmp_path / "model", device="cpu", test_crop_size=48)
    assert [larger.pixels(path).shape for path in shapes] == [(1, 3, 48, 48)] * 5
    kept = Captioner.load(tmp_path / "model", device="cpu", test_crop_size=48, test_respect_ratio_max=80)
    assert [kept.pixels(path).shape[2:] for path in shapes] == [(48, 64), (64, 48), (48, 48), (48, 64), (16, 80)]
    assert (kept.config.transform.resize, kept.config.transform.longest) == ("keep", 80)
    assert len({captioner.fingerprint for captioner in (plain, larger, kept)}) == 3
    texts = kept.caption(shapes)
    assert [kept.caption([path])[0] for path in shapes] == texts
    kept.save(tmp_path / "kept")
    assert Captioner.load(tmp_path / "kept", device="cpu").caption(shapes) == texts


def test_a_size_or_shape_that_cannot_be_is_refused(make_captioner, tmp_path):
    make_captioner("gpt2", "linear", "grid").save(tmp_path / "model")
    with pytest.raises(UsageError, match=r"'test_respect_ratio_max': 20 is less than the side .* resized to, 32; give"):
        Captioner.load(tmp_path / "model", device="cpu", test_respect_ratio_max=20)
    with pytest.raises(UsageError, match="test_crop_size 40 is not a multiple of the patch size 16"):
        Captioner.load(tmp_path / "model", device="cpu", test_crop_size=40)


def test_large_jpegs_are_decoded_in_full_where_that_is_asked_for(make_captioner, tmp_path):
    make_captioner().save(tmp_path / "model")
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    scaled, exact = (
        Captioner.load(tmp_path / "model", device="cpu", exact_decode=flag).pixels(tmp_path / "large.jpg")
        for flag in (False, True)
    )
    picture = decode((tmp_path / "large.jpg").read_bytes())
    assert np.array_equal(exact[0], make_captioner().transform(picture))
    assert not np.array_equal(scaled, exact)
    assert np.abs(scaled.astype(int) - exact).mean() < 2


def test_answers_render_the_checkpoints_template(make_captioner, pictures):
    captioner = make_captioner("opt")
    plain = captioner.answer(pictures, ["what is it?", "a", "b"], max_new_tokens=5)
    captioner.config = replace(captioner.config, prompt=PromptConfig(question="Q: {question} A:", caption="a photo of"))
    assert captioner.question_prompt("what is it?") == "Q: what is it? A:"
    assert captioner.caption_prompt() == "a photo of"
    assert captioner.caption_prompt("one word:") == "one word:"
    templated = captioner.answer(pictures, ["what is it?", "a", "b"], max_new_tokens=5)
    assert templated != plain
    captioner.config = replace(captioner.config, prompt=PromptConfig())
    assert captioner.answer(pictures, ["Q: what is it? A:", "Q: a A:", "Q: b A:"], max_new_tokens=5) == templated


def test_captions_do_not_repeat_the_prompt(make_captioner, pictures):
    captioner = make_captioner("gpt2")
    prompt = "a red circle on a"
    features = captioner.encode(np.stack([captioner.transform(decode(path.read_bytes())) for path in pictures]))
    decoding = captioner.decoding(DecodingParams(), "caption")
    found = captioner.generate(features, [prompt] * 3, decoding, [Identity(str(number)) for number in range(3)])
    assert captioner.caption(pictures, prompt) == [texts[0].text for texts in found]
    assert found[0][0].text == spelled(captioner.tokenizer, found[0][0].token_ids).strip()
    assert captioner.caption(pictures, prompt) != captioner.caption(pictures)


def test_defaults_are_the_checkpoints_then_the_general_ones(make_captioner):
    captioner = make_captioner()
    assert captioner.decoding(DecodingParams(), "caption") == Decoding(num_beams=2, max_new_tokens=8)
    asked = DecodingParams(temperature=0.0, max_new_tokens=3)
    assert captioner.decoding(asked, "answer") == Decoding(num_beams=1, max_new_tokens=3)
    captioner.config = replace(captioner.config, decoding=DecodingParams())
    assert captioner.decoding(DecodingParams(), "caption") == Decoding(num_beams=3, max_new_tokens=40)
    assert captioner.decoding(DecodingParams(), "answer") == Decoding(num_beams=3, max_new_tokens=10)


def test_features_are_those_of_the_normalised_pixels(make_captioner, pictures):
    captioner = make_captioner()
    pixels = np.stack([captioner.transform(decode(path.read_bytes())) for path in pictures])
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 3, 32, 32)
    features = captioner.encode(pixels)
    mean, std = (torch.tensor(values)[:, None, None] for values in (TransformConfig().mean, TransformConfig().std))
    expected = captioner.network.image_encoder((torch.from_numpy(pixels).float() / 255 - mean) / std)
    assert torch.allclose(features.values, expected.values, atol=1e-6)
    assert torch.equal(captioner.encode(torch.from_numpy(pixels)).values, features.values)


def test_encoding_many_is_encoding_some_at_a_time(make_captioner, pictures):
    captioner = make_captioner()
    pixels = [captioner.transform(decode(path.read_bytes())) for path in pictures]
    many = captioner.encode_many(pixels, 2)
    assert torch.allclose(many.values, captioner.encode(np.stack(pixels)).values, atol=1e-6)
    assert many.mask.shape == (3, 1) and bool(many.mask.all())


def test_frames_of_a_video_follow_one_another_on_grid(make_captioner, pictures):
    captioner = make_captioner("gpt2", "linear", "grid")
    pixels = np.stack([captioner.transform(decode(path.read_bytes())) for path in pictures])
    single, video = captioner.encode(pixels), captioner.encode_frames(pixels)
    tokens = 1 + (32 // 16) ** 2
    assert single.values.shape == (3, tokens, 64) and video.values.shape == (1, 3 * tokens, 64)
    assert torch.equal(video.values[0, tokens : 2 * tokens], single.values[1])
    assert video.mask.shape == (1, 3 * tokens) and bool(video.mask.all())


def test_frames_of_a_video_are_averaged_where_pooled(make_captioner, pictures):
    captioner = make_captioner()
    pixels = np.stack([captioner.transform(decode(path.read_bytes())) for path in pictures])
    video = captioner.encode_frames(pixels)
    assert video.values.shape == (1, 1, 12)
    assert torch.allclose(video.values[0], captioner.encode(pixels).values.mean(dim=0))


@pytest.mark.parametrize(("mapper", "output"), [("mlp", "pooled"), ("linearLn", "grid"), ("transformer", "grid")])
def test_videos_of_different_lengths_in_a_batch(mapper, output, make_captioner, pictures):
    captioner = make_captioner("gpt2", mapper, output)
    videos = [pictures, pictures[:1], [pictures[2], pictures[0]], pictures[1]]
    together = captioner.caption(videos)
    assert together == [captioner.caption([video])[0] for video in videos]
    assert together[1] == captioner.caption(pictures[:1])[0]


def test_unreadable_images_are_named(make_captioner, pictures, tmp_path):
    captioner = make_captioner()
    with pytest.raises(DataError, match=r"image 1: the image has zero bytes"):
        captioner.caption([pictures[0], b""])
    with pytest.raises(UsageError, match=r"none.jpg'.*No such file"):
        captioner.caption([tmp_path / "none.jpg"])
    with pytest.raises(UsageError, match=r"image 0: an image is an empty list; at least one frame"):
        captioner.caption([[]])
    for picture, kind in ((np.zeros((8, 8, 3), np.uint8), "ndarray"), (None, "NoneType"), ([pictures[0], 5], "list")):
        with pytest.raises(UsageError, match=rf"image 1: an image is a {kind}; expected the bytes of an image file"):
            captioner.caption([pictures[0], picture])
    with pytest.raises(DataError, match=r"image 0: the image is 0 x 5; expected at least one pixel"):
        captioner.caption([Image.new("RGB", (0, 5))])


def test_a_picture_in_memory_is_refused_as_its_file_is(make_captioner, tmp_path):
    captioner = make_captioner()
    floats = Image.new("F", (8, 8))
    floats.save(tmp_path / "floats.tiff")
    for picture in (floats, tmp_path / "floats.tiff"):
        with pytest.raises(DataError, match="pixels are floats of no known range"):
            captioner.pixels(picture)


def test_wrong_calls_say_so(make_captioner, pictures):
    captioner = make_captioner()
    with pytest.raises(UsageError, match=r"unknown key 'beams'"):
        captioner.caption(pictures, beams=3)
    with pytest.raises(UsageError, match=r"3 images and 2 questions"):
        captioner.answer(pictures, ["a", "b"])
    with pytest.raises(UsageError, match=r"num_captions 2: caption\(\) gives one text each"):
        captioner.caption(pictures, num_captions=2)
    with pytest.raises(UsageError, match=r"batch_size -1: expected 1 or more"):
        captioner.caption(pictures, batch_size=-1)
    for image in (str(pictures[0]), pictures[0], pictures[0].read_bytes(), Image.open(pictures[0])):
        with pytest.raises(UsageError, match=r"images is one \w+; expected a list of images"):
            captioner.caption(image)
    with pytest.raises(UsageError, match=r"questions is one text; expected a list"):
        captioner.answer(pictures, "why")
    assert captioner.caption([]) == []
    assert captioner.describe([], [], captioner.decoding(DecodingParams(), "caption"), []) == []
    with pytest.raises(UsageError, match="no images to encode: expected one or more"):
        captioner.encode_many([], 2)


def test_a_checkpoint_describes_itself(make_captioner, tmp_path):
    make_captioner().save(tmp_path)
    agreed = {"mapping_type": "mlp", "output_grid": False, "input_resolution": 32, "image_encoder_type": "custom"}
    Captioner.load(tmp_path, **agreed)
    with pytest.raises(UsageError) as caught:
        Captioner.load(tmp_path, image_encoder_type="RN50", mapping_type="None", output_grid=True, input_resolution=224)
    for part in (
        "image_encoder_type 'RN50' was given and the checkpoint has 'custom'",
        "mapping_type 'linear' was given and the checkpoint has 'mlp'",
        "output_grid True was given and the checkpoint has False",
        "input_resolution 224 was given and the checkpoint has 32",
    ):
        assert part in str(caught.value)


def test_paths_that_are_no_captioner(hub_home, language_models, tmp_path):
    with pytest.raises(UsageError, match=r"'checkpoints/model-004.pt': there is no such file or folder; a"):
        Captioner.load("checkpoints/model-004.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty': the folder has no config.json"):
        Captioner.load(tmp_path / "empty")
    with pytest.raises(WeightsError, match=r"gpt2': its config.json is not a captioner's"):
        Captioner.load(language_models["gpt2"])
    with pytest.raises(WeightsError, match=r"someone/captioner: config.json, model.safetensors, tokenizer/ not found"):
        Captioner.load("someone/captioner")


def test_a_checkpoint_on_the_hub(make_captioner, pictures, hub_home, tmp_path):
    captioner = make_captioner()
    captioner.save(tmp_path / "model")
    hub_cache.snapshot(hub_home, "someone/captioner", tmp_path / "model")
    assert Captioner.load("someone/captioner").caption(pictures) == captioner.caption(pictures)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_frozen_language_model_comes_from_the_hub(
    family, make_captioner, language_models, pictures, hub_home, tmp_path
):
    captioner = make_captioner(family)
    source = WeightsSource(id="org/small", revision=hub_cache.REVISION)
    config = replace(captioner.config, language_model=replace(captioner.config.language_model, weights=source))
    Captioner(config, captioner.network, captioner.tokenizer).save(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"org/small: .*'ids': \['org/small'\]"):
        Captioner.load(tmp_path / "model")
    hub_cache.snapshot(hub_home, "org/small", language_models[family])
    assert Captioner.load(tmp_path / "model").caption(pictures) == captioner.caption(pictures)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("stored", [True, False])
def test_quantized_language_models_run_on_a_cpu(
    quantization, stored, make_captioner, language_models, pictures, hub_home, tmp_path
):
    pytest.importorskip("bitsandbytes")
    captioner = make_captioner("llama")
    if not stored:
        hub_cache.snapshot(hub_home, "org/small", language_models["llama"])
        language_model = replace(captioner.config.language_model, weights=WeightsSource(id="org/small"))
        captioner.config = replace(captioner.config, language_model=language_model)
    captioner.save(tmp_path / "model")
    loaded = Captioner.load(tmp_path / "model", quantization=quantization, device="cpu")
    kinds = {type(module).__name__ for module in loaded.network.language_model.modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization] in kinds
    assert loaded.config.language_model.quantization == quantization
    texts = loaded.caption(pictures)
    assert len(texts) == 3
    assert texts == Captioner.load(tmp_path / "model", quantization=quantization, device="cpu").caption(pictures)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions(dtype, make_captioner, pictures, tmp_path):
    make_captioner().save(tmp_path)
    captioner = Captioner.load(tmp_path, dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in captioner.network.parameters()} == {getattr(torch, dtype)}
    assert len(captioner.caption(pictures)) == 3


def test_devices_and_precisions_by_name(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of("auto") == cpu and device_of("cpu") == cpu
    with pytest.raises(UsageError, match=r"'cuda:1': torch sees 0 CUDA devices"):
        device_of("cuda:1")
    with pytest.raises(UsageError, match=r"'gpu': expected auto, cpu, cuda"):
        device_of("gpu")
    for name in ("xpu", "meta", "meta:0", ""):
        with pytest.raises(UsageError, match=rf"^device '{name}': expected auto, cpu, cuda, cuda:N or mps$"):
            device_of(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == cuda
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=supported: found)
        assert dtype_of("auto", cuda) == expected
    assert dtype_of("auto", cpu) == torch.float32 and dtype_of("float16", cpu) == torch.float16
    with pytest.raises(UsageError, match=r"'fp16': expected auto, float32, bfloat16, float16"):
        dtype_of("fp16", cpu)


def test_nothing_is_said_on_the_side(make_captioner, pictures, tmp_path):
    make_captioner().save(tmp_path)
    code = (
        "import sys, git_caption\n"
        "captioner = git_caption.Captioner.load(sys.argv[1])\n"
        "captioner.answer(sys.argv[2:], ['what?'] * 3, repetition_penalty=1.2, no_repeat_ngram_size=2)\n"
        "captioner.caption(sys.argv[2:], temperature=0.7, stop=['e'])\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *map(str, pictures)], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
