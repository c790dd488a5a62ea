"""The captioning network: image encoder, mapper and language model joined by a prefix.

    pixels -> features -> prefix -> [prefix, prompt | target] -> language model -> log-probabilities of the target

Shape letters: B batch, R resolution, N image tokens, P prefix length, L context length (prefix and prompt),
D_l language width, T target length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from git_caption.errors import UsageError
from git_caption.model import packing
from git_caption.model.language import check_context, forward_keys, input_device, position_ids
from git_caption.model.mapping import Mapper
from git_caption.model.mixing import MixedMapper
from git_caption.model.temporal import TemporalEmbedding
from git_caption.model.vision import Beside, Features, ImageEncoder, Prefix

NOTHING = "nothing to continue: a row has neither features nor a prompt"
IGNORED = -100  # a target that is padding: no loss, log-probability 0


@dataclass(frozen=True)
class TextBatch:
    """The texts of B rows: `prompt_ids` are given, `target_ids` are what the network is asked the probability of.

    images: the image that each is about, a row of the features; None: each is about its own.
    """

    prompt_ids: list[list[int]]
    target_ids: list[list[int]]
    images: list[int] | None = None


class LanguageInputs(Beside):
    """What a decode loop starts from: float[B, L, D_l] and long[B, L], left-padded."""

    inputs_embeds: Tensor
    attention_mask: Tensor


class GitNetwork(nn.Module):
    """An image encoder, a mapper and a causal language model (prefix fusion)."""

    def __init__(
        self,
        image_encoder: ImageEncoder,
        mapper: Mapper | MixedMapper | None,
        language_model: PreTrainedModel,
        temporal: TemporalEmbedding | None = None,
        normalize: bool = False,
    ) -> None:
        """Join the parts, which keep their devices and dtypes.

        Args:
            image_encoder: pixels to features.
            mapper: features to prefix; None where the language model looks at features by other means.
            language_model: any causal one.
            temporal: for the frames of videos.
            normalize: each row of features is divided by its norm before it is mapped.
        """
        super().__init__()
        self.image_encoder = image_encoder
        self.mapper = mapper
        self.cross_attention: nn.Module | None = None
        self.language_model = language_model
        self.temporal = temporal
        self.normalize = normalize
        self.takes_positions = "position_ids" in forward_keys(language_model)
        self._packs: list[packing.Way | None] = []  # the answer once it is known: now weights may not be in place yet
        self._compiled: Callable[..., Any] | None = None

    def replace_language_model(self, language_model: PreTrainedModel) -> None:
        """Take another language model: the same, quantized or in another place."""
        self.language_model = language_model

    def place(self, device: torch.device) -> None:
        """Move all parts but the language model, which is in its place: it may be spread over several devices."""
        for part in (self.image_encoder, self.temporal, *self.between.values()):
            if part is not None:
                part.to(device)

    @property
    def between(self) -> dict[str, nn.Module]:
        """What joins image encoder and language model, by the names that it is stored under."""
        parts = {"mapper": self.mapper, "cross_attention": self.cross_attention}
        return {name: part for name, part in parts.items() if part is not None}

    def train(self, mode: bool = True) -> GitNetwork:
        """As `nn.Module.train`; parts of which nothing is trained stay in evaluation mode, without dropout."""
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def compile_for_training(self) -> None:
        """Compile what `encode` and `token_logprobs` run; decoding, whose shapes change with every token, is left."""
        self.image_encoder.compile()
        # the method, for a compiled module would be one more child of this one
        self._compiled = torch.compile(self.language_model.forward, dynamic=True)
        self._packs = [None]  # the layout of packed texts is another in every batch, and would be compiled again

    def encode(self, pixels: Tensor) -> Features:
        """The features of images float[B, 3, R, R]; once per image, however many prompts it has."""
        features: Features = self.image_encoder(pixels)
        return features

    def placed_in_time(self, frames: Features) -> Features:
        """The features of one video's frames with their positions, where there are any; a single frame is an image.

        Raises:
            DataError: more frames than positions.
        """
        if self.temporal is None or len(frames.values) == 1:
            return frames
        placed: Features = self.temporal(frames)
        return placed

    def prefix(self, features: Features) -> tuple[Tensor, Tensor]:
        """The mapped features, values float[B, P, D_l] and mask bool[B, P], in the language model's dtype and place.

        A `Prefix` is not mapped again.
        """
        values, mask = features.values, features.mask
        if not isinstance(features, Prefix):
            assert self.mapper is not None, "a network without a mapper has no prefix"
            mapper_dtype = next(self.mapper.parameters()).dtype
            if self.normalize:
                values = functional.normalize(values.float(), dim=-1)
            values = self.mapper(values.to(mapper_dtype), mask)
            mask = mask if self.mapper.keeps_rows else mask.new_ones(values.shape[:2])
        device = input_device(self.language_model)
        return values.to(device, self._embed_tokens.weight.dtype), mask.to(device)

    def prefixed(self, features: Features) -> Prefix:
        """The prefix of the features, and what the language model is given beside it."""
        return Prefix(*self.prefix(features))

    def language_inputs(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> LanguageInputs:
        """The embedded context of each row, left-padded: `[padding, prefix, prompt]`.

        Example, P = 2 and prompts of 1 and 0 tokens: the mask is `[[1, 1, 1], [0, 1, 1]]`.

        Raises:
            UsageError: as many prompts as features are needed, and a row has neither prefix nor prompt.
        """
        prefix = self.prefixed(features)
        if len(prompt_ids) != len(prefix.values):
            raise UsageError(f"{len(prompt_ids)} prompts for the features of {len(prefix.values)} images")
        tokens, token_mask = padded(prompt_ids, prefix.values.device, padding=0)
        values = torch.cat([prefix.values, self._embed_tokens(tokens).to(prefix.values.dtype)], dim=1)
        mask = torch.cat([prefix.mask, token_mask], dim=1)
        values, mask = left_packed(values, mask)
        return {**prefix.beside, "inputs_embeds": values, "attention_mask": mask.long()}

    def token_logprobs(self, features: Features, batch: TextBatch) -> Tensor:
        """Log-probabilities float32[B, T] of the target tokens, 0 after a row's last one.

        Logits are computed before the target tokens and nowhere else, and, where the language model can keep texts
        apart that follow one another in a row, no text is padded to the longest.

        Raises:
            UsageError: as for `language_inputs`, and more tokens than the language model has positions.
        """
        count = len(batch.prompt_ids)
        if len(batch.target_ids) != count:
            raise UsageError(f"{len(batch.target_ids)} targets for {count} prompts")
        if batch.images is None and count != len(features.values):
            raise UsageError(f"{count} prompts for the features of {len(features.values)} images")
        lengths = [len(target) for target in batch.target_ids]
        if not any(lengths):
            return torch.zeros(count, 0, device=input_device(self.language_model))
        prefix = self.prefixed(features)
        images = list(range(count)) if batch.images is None else batch.images
        self._check_lengths(prefix.mask.sum(1).tolist(), images, batch)
        if (way := self.way_of_packing()) is None:
            found = self._padded_logprobs(prefix.select(torch.tensor(images, device=prefix.mask.device)), batch)
        else:
            found = self._packed_logprobs(prefix, images, batch, way)
        places = [row * max(lengths) + place for row, length in enumerate(lengths) for place in range(length)]
        whole = found.new_zeros(count * max(lengths))
        return whole.scatter(0, torch.tensor(places, device=found.device), found).view(count, -1)

    def way_of_packing(self) -> packing.Way | None:
        """How the language model keeps texts apart that follow one another in a row; None where it cannot."""
        if not self._packs:
            self._packs.append(packing.way_of(self.language_model))
        return self._packs[0]

    def _packed_logprobs(self, prefix: Prefix, images: Sequence[int], batch: TextBatch, way: packing.Way) -> Tensor:
        """Of all target tokens, one text's after the other's: float32[M]."""
        device = prefix.values.device
        # the last token of a text is not read, for nothing follows it
        read = [
            [*prompt, *target[:-1]] if target else []
            for prompt, target in zip(batch.prompt_ids, batch.target_ids, strict=True)
        ]
        tokens = self._embed_tokens(
            torch.tensor([token for ids in read for token in ids], device=device, dtype=torch.long)
        )
        rows = torch.cat([prefix.values.flatten(0, 1), tokens.to(prefix.values.dtype)])
        numbered = torch.arange(prefix.mask.numel(), device=device).view(prefix.mask.shape)
        own = [numbers[real].tolist() for numbers, real in zip(numbered.cpu(), prefix.mask.cpu(), strict=True)]
        first = prefix.mask.numel()
        texts: list[list[int]] = []
        for image, ids in zip(images, read, strict=True):
            texts.append([*own[image], *range(first, first + len(ids))])
            first += len(ids)
        layout = packing.layout(texts, [len(target) for target in batch.target_ids], device)
        with packing.only_at(self.language_model, layout.asked):
            logits = packing.forward(self.language_model, rows[layout.index], layout.positions, way)[0]  # [M, V]
        targets = torch.tensor([token for target in batch.target_ids for token in target], device=logits.device)
        return -functional.cross_entropy(logits.float(), targets, reduction="none")

    def _padded_logprobs(self, prefix: Prefix, batch: TextBatch) -> Tensor:
        """Of all target tokens, one text's after the other's: float32[M].

        The contexts are left-padded and the targets right-padded, so that all targets begin at the same position.
        """
        context = self.language_inputs(prefix, batch.prompt_ids)
        start = context["inputs_embeds"].shape[1]
        targets, target_mask = padded(batch.target_ids, context["inputs_embeds"].device, padding=IGNORED)
        length = targets.shape[1]
        embedded = self._embed_tokens(targets.clamp(min=0)).to(context["inputs_embeds"].dtype)
        options = {}
        if not bool(context["attention_mask"].all()):
            options["attention_mask"] = torch.cat([context["attention_mask"], target_mask.long()], dim=1)
            if self.takes_positions:
                options["position_ids"] = position_ids(options["attention_mask"])
        # else plain causal attention, which is exact, for targets do not see the padding to their right, and faster
        logits = (self._compiled or self.language_model)(
            inputs_embeds=torch.cat([context["inputs_embeds"], embedded], dim=1),
            logits_to_keep=torch.arange(start - 1, start - 1 + length, device=targets.device),
            use_cache=False,
            **options,
            **prefix.beside,
        ).logits  # [B, T, V]
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return -losses[target_mask.flatten()]

    def _check_lengths(self, prefixes: Sequence[int], images: Sequence[int], batch: TextBatch) -> None:
        before = [prefixes[image] + len(prompt) for image, prompt in zip(images, batch.prompt_ids, strict=True)]
        if min(before) == 0:
            raise UsageError(NOTHING)
        longest = max(range(len(before)), key=lambda row: before[row] + len(batch.target_ids[row]))
        check_context(self.language_model, before[longest], len(batch.target_ids[longest]))

    @property
    def _embed_tokens(self) -> nn.Embedding:
        embedding = self.language_model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding


def left_packed(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of each row of float[B, L, D] to the left, the rest in order, and drop what pads all rows.

    Raises:
        UsageError: a row that is padding alone.
    """
    lengths = mask.sum(1)
    if not bool((lengths > 0).all()):
        raise UsageError(NOTHING)
    if bool(mask.all()):
        return values, mask
    # a stable sort by validity moves each row's padding to the left and keeps the rest in order
    order = mask.long().argsort(dim=1, stable=True)[:, -int(lengths.max()) :]
    values = values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))
    mask = mask.gather(1, order)
    return values.masked_fill(~mask[..., None], 0.0), mask


def padded(rows: Sequence[Sequence[int]], device: torch.device, padding: int) -> tuple[Tensor, Tensor]:
    """Right-pad rows of ids: long[B, T] and a mask bool[B, T]."""
    longest = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), longest), padding, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = True
    return ids.to(device), mask.to(device)
