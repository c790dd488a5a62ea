"""Texts being continued: what a language model remembers of each, and its logits for the token after it.

Shape letters: R texts at the moment, L context length (prefix and prompt), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from git_caption.errors import DataError
from git_caption.model.language import forward_keys, position_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Continuation:
    """R texts, each begun by one row of a batch of contexts; at first every row begins one.

    Rows of a batch do not influence one another: contexts are padded on the left, the padding is masked, and positions
    count real tokens alone. Where nothing is padding no mask is made, which is faster.

    Attributes:
        logits: float[R, V], of the token after each text; float32, or float64 where the model is.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any], names: Sequence[str]) -> None:
        """Read the contexts.

        Args:
            model: a causal language model, or a decoder that also looks at encoded images.
            inputs: keyword arguments of its forward pass: `inputs_embeds` [R, L, D_l] or `input_ids` [R, L],
                `attention_mask` [R, L], and what every later pass needs again (`encoder_hidden_states`, ...).
            names: of the contexts, for errors.

        Raises:
            DataError: a logit that is not a finite number; names the row.
        """
        self.model = model
        self._takes = forward_keys(model)
        self._names = names
        self._kept = {
            name: value
            for name, value in inputs.items()
            if name not in ("inputs_embeds", "input_ids", "attention_mask")
        }
        mask: Tensor = inputs["attention_mask"]
        self._mask = None if bool(mask.all()) else mask
        self.logits = mask.new_empty(0)
        self._context = torch.arange(len(mask))  # the context each text was begun by
        self._cache: Any = None
        positions = None if self._mask is None else position_ids(self._mask)
        self._pass({name: inputs[name] for name in ("inputs_embeds", "input_ids") if name in inputs}, positions)

    def take(self, texts: Sequence[int]) -> None:
        """Make R other texts of the present ones: the i-th becomes the present `texts[i]`, and has its logits."""
        chosen = torch.tensor(texts)
        self._select(chosen)
        self.logits = self.logits[chosen.to(self.logits.device)]

    def follow(self, texts: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with R texts: the i-th is the present text `texts[i]` and `tokens[i]` after it.

        Present texts may be taken several times or never. Raises as the constructor.
        """
        self._select(torch.tensor(texts))
        positions = None
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(texts), 1)], dim=1)
            positions = position_ids(self._mask)[:, -1:]
        self._pass({"input_ids": torch.tensor(tokens, device=self.logits.device)[:, None]}, positions)

    def _select(self, chosen: Tensor) -> None:
        if torch.equal(chosen, torch.arange(len(self._context))):
            return
        moved = chosen.to(self.logits.device)
        self._cache.reorder_cache(moved)
        if self._mask is not None:
            self._mask = self._mask[moved]
        context = self._context[chosen]
        if not torch.equal(context, self._context):  # the beams of an image change places far more often than images go
            self._kept = {
                name: value[moved] if isinstance(value, Tensor) else value for name, value in self._kept.items()
            }
        self._context = context

    def _pass(self, given: dict[str, Tensor], positions: Tensor | None) -> None:
        options: dict[str, Any] = dict(self._kept)
        if self._mask is not None:
            options["attention_mask"] = self._mask
        if positions is not None and "position_ids" in self._takes:
            options["position_ids"] = positions
        if "logits_to_keep" in self._takes:
            options["logits_to_keep"] = 1
        output = self.model(**given, **options, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        self.logits = logits if logits.dtype == torch.float64 else logits.float()
        self._check()

    def _check(self) -> None:
        lowest, highest = self.logits.aminmax(dim=-1)  # one pass; a NaN is both
        finite = lowest.isfinite() & highest.isfinite()
        if not bool(finite.all()):
            name = self._names[int(self._context[int(finite.long().argmin())])]
            raise not_finite(name, self.model)


def not_finite(name: str, model: PreTrainedModel) -> DataError:
    """The error for a row whose logits cannot be used."""
    dtype = str(model.dtype).removeprefix("torch.")
    return DataError(
        f"{name}: the language model gives a logit that is not a finite number, in {dtype}; "
        "if 'dtype': 'float32' gives one too, the weights hold such numbers"
    )
