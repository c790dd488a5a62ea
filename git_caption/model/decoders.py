"""The text parts of pretrained captioners that do not take what a decode loop gives as they are.

    input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask -> logits

Shape letters: B batch, N image tokens, K tokens so far, T tokens of this step, V vocabulary.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from git_caption.model.language import position_ids as positions_of


class Decoder(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A model whose text part is called in its own way. The weights stay the model's."""

    def __init__(self, model: PreTrainedModel, config: Any) -> None:
        """Wrap `model`; `config` describes its text part."""
        config = deepcopy(config)
        config.is_encoder_decoder = False  # to whoever calls it, it continues texts
        config._attn_implementation = "eager"  # asked of this class, which computes no attention
        super().__init__(config)
        self.model = model

    def get_input_embeddings(self) -> nn.Module:
        """The table of token embeddings."""
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        head: nn.Module = self.model.get_output_embeddings()
        return head


class GitDecoder(Decoder):  # type: ignore[no-untyped-call]
    """GIT's transformer over image tokens and text: image tokens see each other, text sees all before it.

    `GitForCausalLM` itself takes pixels only. `encoder_hidden_states` float[B, N, D_l] are the projected features; they
    go in with the first tokens and are in the cache from then on. https://arxiv.org/abs/2205.14100
    """

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Logits float[B, T, V] after input_ids long[B, T]; attention_mask [B, K], of the T tokens and those before."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        steps, tokens = input_ids.shape[1], encoder_hidden_states.shape[1]
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(input_ids), steps + max(0, seen - tokens))
        if position_ids is None:
            position_ids = positions_of(attention_mask)[:, -steps:]
        git: Any = self.model.git
        hidden = git.embeddings(input_ids, position_ids=position_ids)  # [B, T, D_l]
        visible = _visible(encoder_attention_mask.bool(), attention_mask.bool(), steps)
        if seen == 0:
            hidden = torch.cat([encoder_hidden_states.to(hidden.dtype), hidden], dim=1)  # [B, N + T, D_l]
        else:
            visible = visible[:, -steps:]
        bias = hidden.new_zeros(visible.shape).masked_fill(~visible, torch.finfo(hidden.dtype).min)[:, None]
        hidden = git.encoder(hidden, bias, past_key_values, use_cache).last_hidden_state[:, -steps:]
        output: Any = self.model.output
        return CausalLMOutputWithPast(logits=output(hidden[:, -logits_to_keep:]), past_key_values=past_key_values)


class Seq2SeqDecoder(Decoder):  # type: ignore[no-untyped-call]
    """The decoder of an encoder-decoder language model (T5), given what its encoder made of image and prompt."""

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits float[B, T, V] after input_ids long[B, T], which have no padding: the mask says nothing."""
        found = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return CausalLMOutputWithPast(logits=found.logits, past_key_values=found.past_key_values)


def _visible(image: Tensor, text: Tensor, steps: int) -> Tensor:
    """bool[B, N + T, N + K]: which keys the N image tokens and the last T tokens see, of masks [B, N] and [B, K].

    N = 2, K = T = 2: rows `1 1 0 0`, `1 1 0 0`, `1 1 1 0`, `1 1 1 1`.
    """
    rows, tokens = image.shape
    length = text.shape[1]
    from_image = torch.cat([image, torch.zeros_like(text)], dim=1)[:, None].expand(-1, tokens, -1)
    causal = torch.ones(length, length, dtype=torch.bool, device=text.device).tril()[-steps:]  # [T, K]
    from_text = torch.cat([image[:, None].expand(rows, steps, tokens), causal & text[:, None]], dim=2)
    return torch.cat([from_image, from_text], dim=1)
