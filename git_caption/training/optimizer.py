"""AdamW and its learning rate: warm-up, then a fall."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from git_caption.model.vision import ImageEncoder
from git_caption.params.training.steps import OptimisationParams

_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # as transformers calls them


def build_optimizer(module: nn.Module, params: OptimisationParams, steps: int) -> tuple[AdamW, LRScheduler]:
    """AdamW over what requires gradients in `module`.

    Weight decay is on matrices, not on biases, norms and gains. An image encoder has its own learning rate where
    `image_encoder_lr` says so.
    """
    encoders = [part for part in module.modules() if isinstance(part, ImageEncoder)]
    encoder = {id(parameter) for part in encoders for parameter in part.parameters()}
    groups: list[dict[str, Any]] = []
    for lr, in_encoder in ((params.lr, False), (params.image_encoder_lr or params.lr, True)):
        trained = [p for p in module.parameters() if p.requires_grad and (id(p) in encoder) == in_encoder]
        for weight_decay, is_matrix in ((params.weight_decay, True), (0.0, False)):
            chosen = [p for p in trained if (p.dim() >= 2) == is_matrix]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": weight_decay})
    optimizer = AdamW(groups, lr=params.lr, betas=(0.9, 0.98), fused=True)
    name = _NAMES[params.schedule]
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=params.warmup_steps, num_training_steps=steps)
