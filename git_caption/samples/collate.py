"""Samples → a batch: captions and questions drawn, prompts rendered, texts as token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from git_caption.params.model import PromptConfig
from git_caption.samples.feature_rows import EncodedSample
from git_caption.samples.features import padded
from git_caption.samples.training_data import Texts, TrainingSample, said
from git_caption.text.prompts import begins_word, prompt_ids, render
from git_caption.text.tokenizer import encode_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """B pictures and M texts about them.

    keys: of the pictures. seen: their pixels uint8[B, 3, R, R], or their features float[B, N, D_v] and the mask
    bool[B, N]. images: long[M], the picture of each text. prompt_ids, target_ids: M lists; a target ends with the end
    token, unless it was cut. cut: how many were. references: all captions of each picture. seeds: drawn for each
    picture in each epoch.
    """

    keys: list[str]
    seen: Tensor | tuple[Tensor, Tensor]
    images: Tensor
    prompt_ids: list[list[int]]
    target_ids: list[list[int]]
    cut: int = 0
    references: Sequence[tuple[str, ...]] = ()
    seeds: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Collate:
    """Draws `captions` and `questions` of each picture, at random, and makes a batch of them.

    Captions and answers that are too long are cut: to `longest` tokens, and to what is left of `room`, the positions
    that the language model has for a prompt and what follows it; None is no bound. With `lower_case` captions are in
    lower case and without their last full stop. Prompts have the special tokens that the tokenizer puts around a text
    where `special_tokens` says so.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: PromptConfig
    captions: int
    questions: int
    longest: int | None = None
    room: int | None = None
    lower_case: bool = False
    special_tokens: bool = True

    def __call__(self, samples: Sequence[tuple[TrainingSample | EncodedSample, random.Random]]) -> Batch:
        """The batch of these samples, each with what draws its texts; of no sample the batch is empty."""
        images: list[int] = []
        prompts: list[list[int]] = []
        targets: list[list[int]] = []
        cut = 0
        for number, (sample, rng) in enumerate(samples):
            texts = sample.texts
            before = self.caption_prompt(texts)
            drawn = [(before, self._cased(caption)) for caption in _draw(texts.captions, self.captions, rng)]
            for asked in _draw(texts.questions, self.questions, rng):
                drawn.append((render(self.prompt.question, asked.question), rng.choice(said(asked))))
            for prompt, target in drawn:
                images.append(number)
                prompts.append(prompt_ids(self.tokenizer, self.prompt, prompt, self.special_tokens))
                after_prompt = begins_word(self.prompt, prompt)
                whole = encode_target(self.tokenizer, target, after_prompt=after_prompt, end=self.prompt.end)
                targets.append(self._fitted(whole, len(prompts[-1])))
                cut += len(targets[-1]) < len(whole)
        return Batch(
            [sample.texts.key for sample, _ in samples],
            _seen([sample for sample, _ in samples]),
            torch.tensor(images, dtype=torch.long),
            prompts,
            targets,
            cut,
            [sample.texts.captions for sample, _ in samples],
            [rng.getrandbits(63) for _, rng in samples],
        )

    def caption_prompt(self, texts: Texts) -> str:
        """What the captions of a picture follow."""
        return self.prompt.caption if texts.caption_prompt is None else texts.caption_prompt

    def _cased(self, caption: str) -> str:
        return caption.rstrip().removesuffix(".").lower() if self.lower_case else caption

    def _fitted(self, target: list[int], before: int) -> list[int]:
        """A target after so many tokens of a prompt; one that is cut loses its end token, for it does not end there."""
        length = len(target)
        if self.longest is not None and length > self.longest + 1:  # the end token
            length = self.longest
        if self.room is not None:
            length = min(length, max(1, self.room - before))
        return target[:length]


def _seen(samples: Sequence[TrainingSample | EncodedSample]) -> Tensor | tuple[Tensor, Tensor]:
    pixels = [sample.pixels for sample in samples if isinstance(sample, TrainingSample)]
    values = [sample.values for sample in samples if isinstance(sample, EncodedSample)]
    if values:
        given, mask = padded(values)
        return torch.from_numpy(given), torch.from_numpy(mask)
    return torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, dtype=torch.uint8)


def _draw(items: Sequence[T], count: int, rng: random.Random) -> list[T]:
    return rng.sample(items, min(count, len(items)))
