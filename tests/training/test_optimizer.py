from dataclasses import replace

import pytest
import torch
from torch import nn

from git_caption.model.vision import build_image_encoder
from git_caption.params.model import ImageEncoderConfig
from git_caption.params.training.steps import OptimisationParams
from git_caption.training.optimizer import build_optimizer

ENCODER = ImageEncoderConfig(
    name="custom",
    architecture={
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
    },
)
PARAMS = OptimisationParams(lr=1e-3, warmup_steps=4, weight_decay=0.1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = build_image_encoder(ENCODER)
        self.mapper = nn.Linear(16, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def _steps(params: OptimisationParams, steps: int) -> list[list[float]]:
    """Learning rates of (the mapper's matrix, the encoder's first parameter) at each step."""
    network = Network()
    optimizer, schedule = build_optimizer(network, params, steps)
    rates = []
    for _ in range(steps):
        of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates.append([of[id(network.mapper.weight)], of[id(next(network.image_encoder.parameters()))]])
        optimizer.step()
        schedule.step()
    return rates


def test_the_rate_rises_to_its_height_and_falls_to_nothing():
    linear = [mapper for mapper, _ in _steps(PARAMS, 12)]
    assert linear[:5] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert linear[8] == pytest.approx(5e-4) and linear[11] == pytest.approx(1.25e-4)
    constant = [mapper for mapper, _ in _steps(replace(PARAMS, schedule="constant"), 12)]
    assert constant[:5] == pytest.approx(linear[:5]) and constant[4:] == [1e-3] * 8
    cosine = [mapper for mapper, _ in _steps(replace(PARAMS, schedule="cosine"), 12)]
    assert cosine[8] == pytest.approx(5e-4) and cosine[6] > linear[6]


def test_the_image_encoder_may_have_a_rate_of_its_own():
    assert all(mapper == encoder for mapper, encoder in _steps(PARAMS, 6))
    slower = _steps(replace(PARAMS, image_encoder_lr=1e-5), 6)
    assert all(encoder == pytest.approx(mapper / 100) for mapper, encoder in slower)


def test_matrices_decay_and_biases_do_not_and_what_is_frozen_is_left_out():
    network = Network()
    optimizer, _ = build_optimizer(network, PARAMS, 10)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(network.mapper.weight)] == 0.1 and decays[id(network.mapper.bias)] == 0.0
    assert id(network.frozen.weight) not in decays
    assert len(decays) == sum(1 for p in network.parameters() if p.requires_grad)


def test_one_step_moves_what_has_a_gradient():
    network = Network()
    optimizer, _ = build_optimizer(network, replace(PARAMS, warmup_steps=0), 10)
    before = network.mapper.bias.detach().clone()
    network.mapper(torch.ones(1, 16)).sum().backward()
    optimizer.step()
    assert torch.allclose(network.mapper.bias, before - 1e-3, atol=1e-6)  # Adam's first step is the rate


def test_betas_are_the_two_of_adamw():
    optimizer, _ = build_optimizer(Network(), replace(PARAMS, betas=(0.8, 0.9)), 10)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    for betas in ((0.9,), (0.9, 1.0)):
        (fault,) = replace(PARAMS, betas=betas).check()
        assert fault == (("betas",), f"'betas': expected two numbers from 0 to below 1, found {list(betas)}")
