"""AdamW and its learning rate: warm-up, then a fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from git_caption.model.vision import ImageEncoder
from git_caption.params.training import TrainingParams

_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # as transformers calls them


def build_optimizer(parts: Sequence[nn.Module], params: TrainingParams, steps: int) -> tuple[AdamW, LRScheduler]:
    """AdamW over what requires gradients in `parts`.

    Weight decay is on matrices, not on biases, norms and gains. An image encoder has its own learning rate where
    `image_encoder_lr` says so.
    """
    encoders = [module for part in parts for module in part.modules() if isinstance(module, ImageEncoder)]
    encoder = {id(parameter) for module in encoders for parameter in module.parameters()}
    groups: list[dict[str, Any]] = []
    for lr, in_encoder in ((params.lr, False), (params.image_encoder_lr or params.lr, True)):
        trained = [
            p for part in parts for p in part.parameters() if p.requires_grad and (id(p) in encoder) == in_encoder
        ]
        for weight_decay, is_matrix in ((params.weight_decay, True), (0.0, False)):
            chosen = [p for p in trained if (p.dim() >= 2) == is_matrix]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": weight_decay})
    optimizer = AdamW(groups, lr=params.lr, betas=(0.9, 0.98))
    name = _NAMES[params.schedule]
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=params.warmup_steps, num_training_steps=steps)
