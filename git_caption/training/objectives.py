"""What is minimised: batches in, loss out. An objective owns the parts it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from git_caption.errors import DataError
from git_caption.model.clip_text import ClipText
from git_caption.model.git import IGNORED, GitNetwork, TextBatch, padded
from git_caption.model.language import context_length
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.model.vision import Features, ImageEncoder
from git_caption.samples.collate import Batch


class Objective(nn.Module):
    """A loss and the modules behind it.

    A loss is a sum over what is counted; the loop divides it by the count of the whole step, over batches and
    processes, so that it does not depend on how the step is shared out.

    Attributes:
        measures: names of what else it computes, for the journal.
    """

    measures: tuple[str, ...] = ()

    def take_measures(self) -> list[float]:
        """These, each summed over what was counted since the last call."""
        return []

    def count(self, batch: Batch) -> int:
        """How many terms the loss of a batch sums up."""
        raise NotImplementedError

    def forward(self, seen: Tensor | Features, batch: Batch) -> Tensor:
        """The summed loss, a scalar.

        Args:
            seen: pixels float32[B, 3, R, R], normalised, or features, on the objective's device.
            batch: the texts about them.
        """
        raise NotImplementedError


class CaptionObjective(Objective):
    """The negative log-probability of the target tokens, given the picture and the prompt."""

    def __init__(self, network: GitNetwork | PretrainedNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def language_model(self) -> PreTrainedModel:
        """The network's."""
        return self.network.language_model

    def count(self, batch: Batch) -> int:
        """Target tokens, the end token of each text among them."""
        return sum(map(len, batch.target_ids))

    def forward(self, seen: Tensor | Features, batch: Batch) -> Tensor:
        """The sum over all target tokens."""
        features = seen if isinstance(seen, Features) else self.network.encode(seen)
        if not batch.target_ids:  # of pictures without what is drawn: any text, that gradients are there, and 0
            return 0.0 * self.network.token_logprobs(features, TextBatch([[0]], [[0]], [0])).sum()
        texts = TextBatch(batch.prompt_ids, batch.target_ids, batch.images.tolist())
        return -self.network.token_logprobs(features, texts).sum()


class ContrastiveObjective(Objective):
    """CLIP's: each picture of a batch must find its caption among the batch's, and each caption its picture.

    Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020.
    """

    def __init__(self, image_encoder: ImageEncoder, clip_text: ClipText) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.clip_text = clip_text

    def train(self, mode: bool = True) -> ContrastiveObjective:
        """Also the BatchNorms: an encoder trained from nothing has no statistics to keep yet."""
        super().train(mode)
        for module in self.image_encoder.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def count(self, batch: Batch) -> int:
        """Pictures."""
        return len(batch.keys)

    def forward(self, seen: Tensor | Features, batch: Batch) -> Tensor:
        """The mean of the cross-entropies over pictures and over captions, times the number of pictures."""
        assert isinstance(seen, Tensor), "the image encoder is trained, so its features are not stored"
        if len(batch.target_ids) != len(batch.keys):
            bare = sorted(set(range(len(batch.keys))) - set(batch.images.tolist()))[0]
            raise DataError(
                f"picture {batch.keys[bare]!r} has no caption, which objective contrastive compares it with"
            )
        images = self.image_encoder(seen).values.squeeze(1)  # [B, D]
        captions = [target[: self.clip_text.context] for target in batch.target_ids]
        lengths = torch.tensor([len(ids) for ids in captions], device=seen.device)
        ids = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in captions], batch_first=True)
        logits = self.clip_text.contrastive_logits(images, self.clip_text(ids.to(seen.device), lengths))  # [B, B]
        own = torch.arange(len(logits), device=logits.device)
        both = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
        return both / 2 * len(logits)


class LanguageObjective(Objective):
    """The negative log-probability of texts by themselves, for a language model that is to meet pictures later.

    The texts about a picture, prompts among them, follow one another as one document, so that the model learns to go
    by what stands before: a frozen model can follow a prefix only if it has learnt that.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        super().__init__()
        self.language_model = language_model

    def count(self, batch: Batch) -> int:
        """All tokens of the documents; what is past the model's positions is cut."""
        return sum(len(document) - 1 for document in self._documents(batch))

    def forward(self, seen: Tensor | Features, batch: Batch) -> Tensor:
        """The sum over all tokens; `seen` is not looked at."""
        ids, mask = padded(self._documents(batch), self.language_model.device, padding=0)
        # no attention mask: a causal model does not see the padding to a token's right
        logits = self.language_model(input_ids=ids[:, :-1], use_cache=False).logits  # [B, T - 1, V]
        targets = ids.masked_fill(~mask, IGNORED)[:, 1:]
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def _documents(self, batch: Batch) -> list[list[int]]:
        """For each picture an end token, as between documents, then its texts."""
        documents: dict[int, list[int]] = {}
        for image, prompt, target in zip(batch.images.tolist(), batch.prompt_ids, batch.target_ids, strict=True):
            documents.setdefault(image, [target[-1]]).extend([*prompt, *target])
        positions = context_length(self.language_model)
        return [document[: positions and positions + 1] for document in documents.values()]
