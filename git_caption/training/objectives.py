"""What is minimised: batches in, loss out. An objective owns the parts it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from git_caption.model.clip_text import ClipText
from git_caption.model.git import GitNetwork, TextBatch
from git_caption.model.vision import ImageEncoder
from git_caption.samples.collate import Batch

BUCKETS = 4  # texts of like length go through the language model together: little of it is padding


class Objective(Protocol):
    """A loss and the modules behind it."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What is trained, as far as it requires gradients."""
        ...

    def loss(self, pixels: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar; `pixels` are float32[B, 3, R, R], normalised, on the objective's device."""
        ...


class CaptionObjective:
    """Mean negative log-probability of the target tokens, given the picture and the prompt."""

    def __init__(self, network: GitNetwork) -> None:
        self.network = network
        self.modules: tuple[nn.Module, ...] = (network,)

    def loss(self, pixels: Tensor, batch: Batch) -> Tensor:
        """The sum over all target tokens divided by their number."""
        features = self.network.encode(pixels)
        total = pixels.new_zeros(())
        for rows in _buckets([len(p) + len(t) for p, t in zip(batch.prompt_ids, batch.target_ids, strict=True)]):
            texts = TextBatch([batch.prompt_ids[row] for row in rows], [batch.target_ids[row] for row in rows])
            images = batch.images[rows].to(pixels.device)
            total = total - self.network.token_logprobs(features.select(images), texts).sum()
        return total / sum(len(target) for target in batch.target_ids)


class ContrastiveObjective:
    """CLIP's: each picture of a batch must find its caption among the batch's, and each caption its picture.

    Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020.
    """

    def __init__(self, image_encoder: ImageEncoder, clip_text: ClipText) -> None:
        self.image_encoder = image_encoder
        self.clip_text = clip_text
        self.modules: tuple[nn.Module, ...] = (image_encoder, clip_text)

    def loss(self, pixels: Tensor, batch: Batch) -> Tensor:
        """The mean of the cross-entropies over pictures and over captions."""
        for module in self.image_encoder.modules():
            if isinstance(module, _BatchNorm):
                module.train()  # an encoder trained from nothing has no statistics to keep yet
        images = self.image_encoder(pixels).values.squeeze(1)  # [B, D]
        captions = [target[: self.clip_text.context] for target in batch.target_ids]
        lengths = torch.tensor([len(ids) for ids in captions], device=pixels.device)
        ids = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in captions], batch_first=True)
        logits = self.clip_text.contrastive_logits(images, self.clip_text(ids.to(pixels.device), lengths))  # [B, B]
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def _buckets(lengths: list[int]) -> Iterator[list[int]]:
    """Row numbers sorted by length, in at most `BUCKETS` parts of like size."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = -(-len(order) // BUCKETS)
    return (order[start : start + size] for start in range(0, len(order), size))
