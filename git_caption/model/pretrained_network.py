"""What pretrained captioners of transformers have in common as networks: features, then a decoder that continues.

    pixels -> features -> what the decoder attends to -> [start, prompt | target] -> log-probabilities of the target

Shape letters: B batch, N image tokens, D_v vision width, D_l language width, L context length, T target length,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from git_caption.errors import UsageError
from git_caption.model.git import TextBatch, padded
from git_caption.model.language import check_context, context_length
from git_caption.model.vision import Features

if TYPE_CHECKING:
    from git_caption.params.pretrained import Part

Modules = Mapping["Part", tuple[str, ...]]
UNUSED = ".pooler."  # a layer that many image encoders have and captioning does not use


class PretrainedNetwork(nn.Module):
    """A pretrained captioner, taken apart.

    Attributes:
        language_model: what a decode loop calls, with `language_inputs` at first.
        adapted: the part of the model that LoRA stands on.
        start_ids: the tokens before every prompt.
        end_id: the token that ends a text.
        mixes_lengths: whether prompts, and images, of different lengths may share a batch. Not where the language
            model counts padding as positions, or sees it.
        special_tokens: whether prompts are given with the special tokens that their tokenizer puts around a text.
        text_part: a pattern of the names of the modules whose linear layers may be quantized.
        modules_of: the names of the modules that each part is made of; a captioner need not have all of them.
        encodes_with_mapper: whether the mapper is behind features, so that they change when it is trained.
        prefix_length: rows that stand before a prompt, among the positions of the language model.
    """

    language_model: PreTrainedModel
    adapted: nn.Module
    start_ids: tuple[int, ...] = ()
    end_id: int
    mixes_lengths = True
    special_tokens = False
    text_part = r"(.+\.)?(language_model|text_model)\."
    modules_of: ClassVar[Modules] = {}
    encodes_with_mapper = False
    prefix_length = 0

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the loaded model apart; its weights, device and dtype stay as they are."""
        super().__init__()
        self.model = model
        self._compiled: Callable[..., Any] | None = None

    def train(self, mode: bool = True) -> PretrainedNetwork:
        """As `nn.Module.train`; parts of which nothing is trained stay in evaluation mode, without dropout."""
        super().train(mode)
        for part, names in self.modules_of.items():
            if any(parameter.requires_grad for _, parameter in self.parameters_of(part)):
                continue
            for name, module in self.model.named_modules():
                if name in names:
                    module.eval()
        return self

    def parameters_of(self, part: Part) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of a part by their names in the model; none where it has no such part."""
        for name, parameter in self.model.named_parameters():
            if self.is_in(name, part):
                yield name, parameter

    def is_in(self, name: str, part: Part) -> bool:
        """Whether what the model has by this name is of a part."""
        return UNUSED not in name and f"{name}.".startswith(tuple(f"{module}." for module in self.modules_of[part]))

    def compile_for_training(self) -> None:
        """Compile what `token_logprobs` runs; decoding, whose shapes change with every token, is left."""
        # the method, for a compiled module would be one more child of this one
        self._compiled = torch.compile(self.language_model.forward, dynamic=True)

    @property
    def room(self) -> int | None:
        """The positions that a prompt and what follows it may take; None where there is no bound."""
        positions = context_length(self.language_model)
        return None if positions is None else positions - self.prefix_length - max(1, len(self.start_ids))

    def encode(self, pixels: Tensor) -> Features:
        """The features of images float[B, 3, H, W]; once per image, however many prompts it has."""
        values = self.image_tokens(pixels.to(self.dtype))
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def join_frames(self, frames: Features) -> Features:
        """The features [1, F * N, D_v] of a video, from those of its frames [F, N, D_v]."""
        return Features(frames.values.flatten(0, 1)[None], frames.mask.flatten()[None])

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """float[B, N, D_v] of pixels in the vision part's dtype."""
        raise NotImplementedError

    def attended(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Features, list[list[int]]]:
        """What the decoder attends to of B rows, and the tokens of its contexts, as long as each is."""
        return features, [[*self.start_ids, *ids] for ids in prompt_ids]

    def language_inputs(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """What the language model starts from: contexts [B, L], left-padded, and the image for its cross-attention."""
        attended, contexts = self.attended(features, prompt_ids)
        ids, mask = padded([ids[::-1] for ids in contexts], attended.values.device, padding=self.end_id)
        return {
            "input_ids": ids.flip(1),
            "attention_mask": mask.flip(1).long(),
            "encoder_hidden_states": attended.values,
            "encoder_attention_mask": attended.mask.long(),
        }

    def token_logprobs(self, features: Features, batch: TextBatch) -> Tensor:
        """Log-probabilities float32[B, T] of the target tokens, 0 after a row's last one.

        Each token is told from those before it: labels are shifted once.

        Raises:
            UsageError: as many prompts as targets, or as features, are needed; or more tokens than the language model
                has positions.
        """
        count = len(batch.prompt_ids)
        if len(batch.target_ids) != count:
            raise UsageError(f"{len(batch.target_ids)} targets for {count} prompts")
        if batch.images is None and count != len(features.values):
            raise UsageError(f"{count} prompts for the features of {len(features.values)} images")
        if not any(batch.target_ids):
            return torch.zeros(count, 0, device=features.values.device)
        images = range(count) if batch.images is None else batch.images
        rows = features.select(torch.tensor(list(images), device=features.values.device))
        attended, contexts = self.attended(rows, batch.prompt_ids)
        for context, target in zip(contexts, batch.target_ids, strict=True):
            check_context(self.language_model, self.prefix_length + len(context), max(0, len(target) - 1))
        lengths = attended.mask.sum(1).tolist()
        found = [torch.empty(0)] * count
        for length in set(lengths):  # apart, for not every decoder is blind to padding among what it attends to
            alike = [row for row in range(count) if lengths[row] == length]
            seen = attended.values[alike][attended.mask[alike]].view(len(alike), length, attended.values.shape[-1])
            texts = self._logprobs(seen, [contexts[row] for row in alike], [batch.target_ids[row] for row in alike])
            for row, text in zip(alike, texts, strict=True):
                found[row] = text
        return pad_sequence(found, batch_first=True)

    def _logprobs(self, attended: Tensor, contexts: list[list[int]], targets: list[list[int]]) -> Sequence[Tensor]:
        """Of each row's target tokens: float32[T].

        Texts are padded on the right, where a causal decoder does not see it, so that no mask is needed.
        """
        read = [[*context, *target[:-1]] for context, target in zip(contexts, targets, strict=True)]
        ids, _ = padded(read, attended.device, padding=self.end_id)
        asked = [
            (row, len(context) - 1 + place)
            for row, (context, target) in enumerate(zip(contexts, targets, strict=True))
            for place in range(len(target))
        ]
        rows, places = torch.tensor(asked, device=attended.device, dtype=torch.long).view(-1, 2).unbind(1)
        logits = self.logits(attended, ids)[rows, places]  # [M, V]
        wanted = torch.tensor([token for target in targets for token in target], device=attended.device)
        losses = functional.cross_entropy(logits.float(), wanted, reduction="none")
        return torch.split(-losses, list(map(len, targets)))

    def logits(self, attended: Tensor, ids: Tensor) -> Tensor:
        """After each of the tokens long[B, L]: float[B, L, V]."""
        seen = torch.ones(attended.shape[:2], dtype=torch.long, device=attended.device)
        found: Tensor = self.language_forward(
            input_ids=ids, encoder_hidden_states=attended, encoder_attention_mask=seen, use_cache=False
        ).logits
        return found

    @property
    def head(self) -> nn.Module:
        """The output layer of the decoder."""
        found: nn.Module = self.language_model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return found

    @property
    def language_forward(self) -> Callable[..., Any]:
        """The language model's forward pass, compiled where it was asked for."""
        return self._compiled or self.language_model

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the vision part."""
        return next(part for part in self.model.parameters() if part.is_floating_point()).dtype
