"""Images as transformers' own processors prepare them."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from git_caption.errors import DataError, WeightsError
from git_caption.images.processor import Processed, Resized, Whole, load_processor, prepared
from git_caption.images.transform import normalise

SIZES = [(50, 40), (40, 50), (41, 67), (130, 33), (32, 32), (7, 90)]
PROCESSORS = {
    "clip": (hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), Resized),
    "clip, odd": (hf.CLIPImageProcessor(size={"shortest_edge": 33}, crop_size={"height": 28, "width": 30}), Resized),
    "clip, crop too large": (hf.CLIPImageProcessor(size={"shortest_edge": 20}, crop_size=32), Processed),
    "blip": (hf.BlipImageProcessor(size={"height": 32, "width": 48}), Resized),
    "blip, as its repositories have it": (
        hf.BlipImageProcessor(size={"height": 32, "width": 32}, do_pad=True, size_divisor=32),
        Resized,
    ),
    "padded": (hf.ViTImageProcessor(size={"height": 32, "width": 32}, do_pad=True, pad_size=(48, 40)), Processed),
    "vit, bilinear": (hf.ViTImageProcessor(size={"height": 32, "width": 32}), Resized),
    "vit, lanczos": (hf.ViTImageProcessor(size={"height": 32, "width": 32}, resample=1), Resized),
    "deit": (hf.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}), Resized),
    "siglip": (hf.SiglipImageProcessor(size={"height": 32, "width": 32}), Resized),
    "donut": (hf.DonutImageProcessor(size={"height": 48, "width": 32}), Processed),
    "not resized": (hf.ViTImageProcessor(do_resize=False), Processed),
    "to -1 and 1": (hf.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False), Resized),
    "not rescaled": (hf.ViTImageProcessor(size={"height": 8, "width": 8}, do_rescale=False), Resized),
    "rescaled to 2": (hf.ViTImageProcessor(size={"height": 8, "width": 8}, rescale_factor=2 / 255), Resized),
}


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(name, tmp_path):
    given, kind = PROCESSORS[name]
    given.save_pretrained(tmp_path)
    processor = load_processor(tmp_path)
    prepare, mean, std = prepared(processor)
    prepare = pickle.loads(pickle.dumps(prepare))
    assert isinstance(prepare, kind)
    own = hf.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for size in SIZES:
        pixels = prepare(noise(*size))
        assert pixels.dtype == (np.uint8 if kind is Resized else np.float32) and pixels.flags.c_contiguous
        expected = own(noise(*size), return_tensors="pt").pixel_values[0]
        found = normalise(torch.from_numpy(pixels), mean, std)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected.float(), rtol=1e-5, atol=2e-5)


def test_a_picture_too_narrow_to_be_scaled_is_refused():
    with pytest.raises(DataError, match=r"the image is 1 x 40000: its shorter side scaled to 224, the longer one"):
        Resized(224, Image.Resampling.BICUBIC, (224, 224))(Image.new("RGB", (1, 40000)))


def test_whole_pictures_stay_as_they_are():
    image = noise(50, 40)
    assert np.array_equal(Whole()(image), np.asarray(image).transpose(2, 0, 1))
    assert Whole(longest=25)(image).shape == (3, 20, 25)


def test_a_folder_without_a_processor_says_so(tmp_path):
    with pytest.raises(WeightsError, match=rf"{tmp_path}: no loadable image processor \(preprocessor_config.json\)"):
        load_processor(tmp_path)


def test_workers_that_resize_need_neither_torch_nor_transformers():
    code = (
        "import sys; from PIL import Image; from git_caption.images.processor import Resized\n"
        "Resized((8, 8), Image.Resampling.BICUBIC)(Image.new('RGB', (9, 9)))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
