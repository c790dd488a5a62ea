"""Texts one after another in few rows, so that a batch costs its tokens and not its longest text times their number.

A text's positions begin at 0 again, and it attends to itself alone: transformers makes the mask for that from the
positions of most architectures, others take one that is made here, and some can do neither. Which it is, is found out
by asking the model.

Shape letters: R rows, S positions of a row, D_l language width, M positions that logits are computed for, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from git_caption.model.language import forward_keys, input_device

if TYPE_CHECKING:
    from collections.abc import Iterator

Way = Literal["positions", "mask"]

# Attention takes time with the square of a row, and each row is padded to the longest: measured with GPT-2 124M.
ROW = 256
NOISE = 10.0  # by how many units in the last place of its precision a model's logits may differ from row to row
LEAST = 1e-4  # and what they may differ by in any case; of texts that see each other they differ by 0.02 and more


@dataclass(frozen=True)
class Layout:
    """Where packed texts lie.

    index: long[R, S], what stands at each place, as a number into the rows that the texts are made of.
    positions: long[R, S], 0 where a text begins.
    asked: long[M], the places (of R * S) that logits are wanted for, one text's after the other's.
    """

    index: Tensor
    positions: Tensor
    asked: Tensor


def layout(texts: Sequence[Sequence[int]], asked: Sequence[int], device: torch.device) -> Layout:
    """Lay texts out in rows of about `ROW` positions, nearly as long as one another.

    Args:
        texts: each a list of numbers, of the rows that it is made of; at least one is not empty.
        asked: of how many positions at the end of each text logits are wanted.
        device: where the layout goes.
    """
    rows = _shared_out([len(text) for text in texts])
    length = max(sum(len(texts[number]) for number in row) for row in rows)
    index, positions = [], []
    ends = [0] * len(texts)
    for start, row in zip(range(0, len(rows) * length, length), rows, strict=True):
        row_index: list[int] = []
        row_positions: list[int] = []
        for number in row:
            row_index += texts[number]
            row_positions += range(len(texts[number]))
            ends[number] = start + len(row_index)
        unused = length - len(row_index)  # becomes a text that nobody asks about
        index.append(row_index + row_index[:1] * unused)
        positions.append(row_positions + list(range(unused)))
    wanted = [place for end, count in zip(ends, asked, strict=True) for place in range(end - count, end)]
    return Layout(*(torch.tensor(values, device=device) for values in (index, positions, wanted)))


def _shared_out(lengths: Sequence[int]) -> list[list[int]]:
    """The numbers of the texts in each row: the longest first, each into the row that is emptiest."""
    rows: list[list[int]] = [[] for _ in range(max(1, -(-sum(lengths) // ROW)))]
    filled = [(0, row) for row in range(len(rows))]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length, row = heapq.heappop(filled)
        rows[row].append(number)
        heapq.heappush(filled, (length + lengths[number], row))
    return rows


def forward(model: PreTrainedModel, values: Tensor, positions: Tensor, way: Way) -> Tensor:
    """The logits [R, S, V] of packed embeddings float[R, S, D_l] at the positions long[R, S] of a layout."""
    options = {} if way == "positions" else {"attention_mask": _own_texts(positions, values.dtype)}
    logits: Tensor = model(inputs_embeds=values, position_ids=positions, use_cache=False, **options).logits
    return logits


@contextmanager
def only_at(model: PreTrainedModel, places: Tensor) -> Iterator[None]:
    """Inside, logits [1, M, V] are computed for these places (long[M], of R * S) and for no others."""

    def choose(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = given
        return (hidden.flatten(0, 1)[places.to(hidden.device)][None],)

    head = _head(model)
    assert head is not None, "as way_of has seen"
    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def way_of(model: PreTrainedModel) -> Way | None:
    """How the model is told to keep packed texts apart; None where it cannot.

    Asks it: logits of a text that follows another in a row must be those of the text alone.
    """
    # what convolutions and recurrences let through is too little to be seen in random or half-precision logits
    reads_on = any(isinstance(part, nn.Conv1d) for part in model.modules())
    if reads_on or "position_ids" not in forward_keys(model) or _head(model) is None:
        return None
    modes = {part: part.training for part in model.modules()}
    nn.Module.eval(model)
    try:
        ways: tuple[Way, ...] = ("positions", "mask")
        return next((way for way in ways if _keeps_apart(model, way)), None)
    finally:
        for part, mode in modes.items():
            part.training = mode


def _head(model: PreTrainedModel) -> nn.Module | None:
    """What makes logits of the last layer's rows."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head if isinstance(head, nn.Module) else None


@torch.no_grad()
def _keeps_apart(model: PreTrainedModel, way: Way) -> bool:
    embedding: Any = model.get_input_embeddings()
    device = input_device(model)
    count = min(embedding.num_embeddings, 11)
    values = embedding(torch.arange(count - 8, count, device=device) % count)[None]  # [1, 8, D_l]
    first, second = values[:, :4], values[:, 4:]

    def positions(*lengths: int) -> Tensor:
        return torch.cat([torch.arange(length, device=device) for length in lengths])[None]

    with torch.autocast(device.type, enabled=False):
        try:
            both = forward(model, values, positions(4, 4), way)[:, 4:].float()
        except (TypeError, ValueError, RuntimeError):  # a mask of this form is not taken
            return False
        alone, other = (forward(model, text, positions(4), way).float() for text in (second, first))
    # quantized products differ with what else is in a row
    precision = 2**-8 if getattr(model, "quantization_method", None) else torch.finfo(values.dtype).eps
    allowed = max(LEAST, NOISE * precision) * (alone - other).abs().max()
    return bool((both - alone).abs().max() <= allowed)


def _own_texts(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask [R, 1, S, S] that lets each position see what stands before it in its own text, and itself."""
    text = (positions == 0).cumsum(1)
    seen = (text[:, :, None] == text[:, None, :]).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
