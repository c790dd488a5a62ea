"""Mixing against the fork it is from, written out, and several encoders as one against each alone."""

from __future__ import annotations

import pytest
import torch

from git_caption.errors import UsageError
from git_caption.images.transform import normalise
from git_caption.model.mapping import LinearMapper
from git_caption.model.mixing import MixedMapper, Mixing, join, join_stored
from git_caption.model.vision import build_image_encoder
from git_caption.params.model import EncoderConfig, ImageEncoderConfig, MapperConfig, TransformConfig

ENCODERS, LENGTH, WIDTH = 3, 4, 5
VISION = {
    48: {"image_size": 48, "layers": 1, "width": 64, "patch_size": 16},
    64: {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
HALVES = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def written_out(kind: str, mixing: Mixing, prefixes: torch.Tensor) -> torch.Tensor:
    """By number of image, encoder, row and column."""
    weight = mixing.weight.detach()
    found = torch.zeros(len(prefixes), LENGTH, WIDTH, dtype=prefixes.dtype)
    for encoder in range(ENCODERS):
        own = prefixes[:, encoder]
        if kind == "cnn":
            found += weight[0, encoder, 0, 0] * own
        elif kind == "hprod":
            found += weight[0, encoder] * own
        else:
            found += own @ weight[:, encoder * WIDTH : (encoder + 1) * WIDTH].T
    return found


@pytest.mark.parametrize("kind", ["cnn", "hprod", "mix-qdim"])
def test_prefixes_are_mixed_as_the_kind_says_and_at_first_into_their_mean(kind):
    prefixes = torch.randn(2, ENCODERS, LENGTH, WIDTH, dtype=torch.float64)
    mixing = Mixing(kind, ENCODERS, LENGTH, WIDTH).double()
    assert torch.allclose(mixing(prefixes), prefixes.mean(1))
    torch.nn.init.normal_(mixing.weight)
    assert torch.allclose(mixing(prefixes), written_out(kind, mixing, prefixes))
    assert mixing.weight.numel() == {"cnn": 3, "hprod": 3 * 4 * 5, "mix-qdim": 5 * 15}[kind]


def described(output: str) -> list[EncoderConfig]:
    found = []
    for side, vision in VISION.items():
        architecture = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision}
        encoder = ImageEncoderConfig("custom", architecture=architecture, output=output)
        found.append(EncoderConfig(encoder, TransformConfig(side, **(HALVES if side == 48 else {}))))
    return found


def test_several_encoders_see_and_map_as_each_does_alone():
    configs = described("pooled")
    encoders = [build_image_encoder(one.image_encoder).eval() for one in configs]
    mapper = MapperConfig("mlp", prefix_length=LENGTH, normalize=True)
    joint, mapped = join("hprod", encoders, configs, mapper, WIDTH)
    torch.nn.init.normal_(mapped.mixing.weight)

    squares = [torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8) for side in VISION]
    strip = torch.cat([square.reshape(2, 3, 1, -1) for square in squares], dim=3)
    with torch.no_grad():
        features = joint(normalise(strip, (0.0,) * 3, (1.0,) * 3))
        found = mapped(features.values, features.mask)
        alone = []
        for square, encoder, config, own in zip(squares, encoders, configs, mapped.mappers, strict=True):
            seen = encoder(normalise(square, config.transform.mean, config.transform.std)).values
            alone.append(own(seen / seen.norm(dim=-1, keepdim=True), torch.ones(2, 1, dtype=torch.bool)))
        expected = (torch.stack(alone, 1) * mapped.mixing.weight).sum(1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_prefixes_of_different_lengths_are_refused_and_a_transformer_mixes_such_grids():
    configs = described("grid")
    encoders = [build_image_encoder(one.image_encoder).eval() for one in configs]
    with pytest.raises(UsageError, match=r"10 rows of 'custom', 4 rows of 'custom'.*one length.*transformer"):
        join("cnn", encoders, configs, MapperConfig("linear"), 8)
    mapper = MapperConfig("transformer", prefix_length=LENGTH, layers=1, heads=2)
    joint, mapped = join("cnn", encoders, configs, mapper, 8)
    features = joint(torch.rand(2, 3, 1, 48**2 + 64**2))
    assert features.values.shape == (2, 1, 10 * 64 + 4 * 256)
    assert mapped(features.values, features.mask).shape == (2, LENGTH, 8)


def test_what_is_no_strip_or_no_features_of_all_is_refused():
    configs = described("pooled")
    encoders = [build_image_encoder(one.image_encoder) for one in configs]
    joint, mapped = join("cnn", encoders, configs, MapperConfig("mlp", prefix_length=2), 8)
    with pytest.raises(UsageError, match=r"2 image encoders take strips of pixels \[B, 3, 1, 6400\].*\[1, 3, 48, 48\]"):
        joint(torch.rand(1, 3, 48, 48))
    with pytest.raises(UsageError, match=r"2 image encoders are \[B, 1, 48\], given were \[1, 1, 24\]"):
        mapped(torch.rand(1, 1, 24), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(UsageError, match="leave out 'test_crop_size'"):
        joint.take(96, any_shape=False)


def test_stored_prefixes_are_mixed_without_an_encoder():
    encoder, mapped = join_stored("mix-qdim", 2, LENGTH, WIDTH)
    prefixes = torch.randn(3, 2, LENGTH, WIDTH)
    found = mapped(prefixes.view(3, 1, -1), torch.ones(3, 1, dtype=torch.bool))
    assert torch.allclose(found, prefixes.mean(1), atol=1e-6)
    assert isinstance(mapped, MixedMapper) and not any(isinstance(part, LinearMapper) for part in mapped.modules())
    with pytest.raises(UsageError, match="give 'features'"):
        encoder(torch.rand(1, 3, 1, 4))
