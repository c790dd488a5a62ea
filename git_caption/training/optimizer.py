"""AdamW, in 32 or 8 bits, and its learning rate: warm-up, then a fall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.utils.import_utils import is_bitsandbytes_available

from git_caption.errors import UsageError
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.model.vision import ImageEncoder
from git_caption.params.training.steps import OptimisationParams

_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # as transformers calls them


def build_optimizer(module: nn.Module, params: OptimisationParams, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW over what requires gradients in `module`.

    Weight decay is on matrices, not on biases, norms and gains. An image encoder, that of a pretrained captioner too,
    has its own learning rate where `image_encoder_lr` says so.

    Raises:
        UsageError: its state was to be in 8 bits and bitsandbytes is not installed.
    """
    encoder = {id(parameter) for part in module.modules() for parameter in _of_image_encoder(part)}
    groups: list[dict[str, Any]] = []
    for lr, in_encoder in ((params.lr, False), (params.image_encoder_lr or params.lr, True)):
        trained = [p for p in module.parameters() if p.requires_grad and (id(p) in encoder) == in_encoder]
        for weight_decay, is_matrix in ((params.weight_decay, True), (0.0, False)):
            chosen = [p for p in trained if (p.dim() >= 2) == is_matrix]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": weight_decay})
    first, second = params.betas
    if params.optimizer == "adamw_8bit":
        optimizer = _adamw_8bit(groups, (first, second))
    else:
        optimizer = AdamW(groups, betas=(first, second), fused=True)
    name = _NAMES[params.schedule]
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=params.warmup_steps, num_training_steps=steps)


def _of_image_encoder(part: nn.Module) -> Iterator[nn.Parameter]:
    if isinstance(part, ImageEncoder):
        yield from part.parameters()
    elif isinstance(part, PretrainedNetwork):
        yield from (parameter for _, parameter in part.parameters_of("image_encoder"))


def _adamw_8bit(groups: list[dict[str, Any]], betas: tuple[float, float]) -> Optimizer:
    if not is_bitsandbytes_available():
        raise UsageError("'optimizer': adamw_8bit needs bitsandbytes: pip install 'git-caption[8bit]'")
    from bitsandbytes import optim

    optimizer: Optimizer = optim.AdamW8bit(groups, betas=betas)  # type: ignore[attr-defined,no-untyped-call]
    return optimizer
