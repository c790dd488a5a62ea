"""AdamW and its learning rate: warm-up, then a fall."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from git_caption.params.training import TrainingParams

_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # as transformers calls them


def build_optimizer(parts: Iterable[nn.Module], params: TrainingParams, steps: int) -> tuple[AdamW, LRScheduler]:
    """AdamW over what requires gradients in `parts`; weight decay on matrices, not on biases, norms and gains."""
    trained = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=params.lr, betas=(0.9, 0.98))
    schedule = get_scheduler(
        _NAMES[params.schedule], optimizer, num_warmup_steps=params.warmup_steps, num_training_steps=steps
    )
    return optimizer, schedule
