"""Cross-attention fusion: new layers in a language model, by which its texts look at the features of their images.

    hidden [R, S, D_l] -> hidden + tanh(gate) * attention(norm(hidden), features) -> a block of the language model

A layer stands before a block, and the blocks themselves stay as they are. Its gate is zero at first, so that a language
model with new layers computes what it computed without them. There is no mapper: each layer projects the features from
their own width. Gated layers before frozen blocks: Flamingo, https://arxiv.org/abs/2204.14198.

Shape letters: B images, N image tokens, D_v vision width, R texts, S positions, D_l language width, H heads,
d = D_l / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from git_caption.errors import UsageError
from git_caption.model.encoder import Beside, Features, ImageEncoder, Prefix
from git_caption.model.git import GitNetwork, LanguageInputs, TextBatch
from git_caption.model.language import blocks_of, input_device
from git_caption.model.temporal import TemporalEmbedding

if TYPE_CHECKING:
    from git_caption.params.model import CrossAttentionConfig


@dataclass(frozen=True, eq=False)
class Seen:
    """What the layers look at of B images, computed once for all tokens of all texts about them.

    projected: by the block that a layer stands before, its keys and values [B, H, N, d]. mask: bool[B, N], true where a
    row is real; None where all are.
    """

    projected: dict[str, tuple[Tensor, Tensor]]
    mask: Tensor | None


# of the language model that computes now; threads may share it, and each looks at images of its own
_GIVEN: ContextVar[tuple[Seen, Tensor] | None] = ContextVar("_GIVEN", default=None)


@dataclass(frozen=True, eq=False)
class Sight(Prefix):
    """The prefix of a network that has none, `values` [B, 0, D_l], and what its texts look at in its place.

    images: long[B], which image of `seen` each row is.
    """

    seen: Seen
    images: Tensor

    def select(self, rows: Tensor) -> Self:
        """The images of the given rows (long[M]), for several texts about one image."""
        return replace(super().select(rows), images=self.images[rows])

    @property
    def beside(self) -> Beside:
        """What the language model is given beside its embeddings."""
        return {"seen": self.seen, "images": self.images}


class CrossAttentionLayer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """Multi-head attention from texts to images, with a norm before it and a gate behind it."""

    def __init__(self, width: int, vision_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.features_norm = nn.LayerNorm(vision_width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(vision_width, width, bias=False)
        self.value = nn.Linear(vision_width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))

    def project(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, d] of features float[B, N, D_v]."""
        normed = self.features_norm(values.to(self.gate))
        return self._by_head(self.key(normed)), self._by_head(self.value(normed))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, images: Tensor) -> Tensor:
        """The hidden states float[R, S, D_l] of texts that have looked at their images.

        Args:
            hidden: of the same shape, before.
            keys: float[B, H, N, d], with the values as `project` gives them.
            values: float[B, H, N, d].
            mask: bool[B, N], true where a row is real; None where all are.
            images: long[R], of the B the one that each text is about.
        """
        queries = self._by_head(self.query(self.norm(hidden.to(self.gate))))  # [R, H, S, d]
        images = images.to(keys.device)
        real = None if mask is None else mask[images][:, None, None]  # [R, 1, 1, N]
        found = functional.scaled_dot_product_attention(queries, keys[images], values[images], attn_mask=real)
        added: Tensor = self.gate.tanh() * self.output(found.transpose(1, 2).flatten(2))
        return hidden + added.to(hidden)

    def _by_head(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], self.heads, -1).transpose(1, 2)


class CrossAttention(nn.Module):
    """The layers of a network, which stand in a language model without being part of it.

    Once joined, the language model takes `seen` and `images` beside its other inputs; without them it is itself alone.

    Attributes:
        layers: by the number of the block that each stands before.
    """

    def __init__(self, blocks: Sequence[int], width: int, vision_width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(block): CrossAttentionLayer(width, vision_width, heads) for block in blocks})
        self._hooks: list[Any] = []

    def join(self, model: PreTrainedModel) -> None:
        """Put the layers into a language model, and take them out of the one they were in."""
        for hook in self._hooks:
            hook.remove()
        blocks = blocks_of(model)
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            *(
                blocks[int(name)].register_forward_pre_hook(partial(self._look, name), with_kwargs=True)
                for name in self.layers
            ),
        ]

    def see(self, features: Features) -> Seen:
        """What the layers look at of B images."""
        at = next(self.parameters()).device
        mask = features.mask.to(at)
        values = features.values.to(at)
        projected = {name: layer.project(values) for name, layer in self.layers.items()}  # type: ignore[operator]
        return Seen(projected, None if bool(mask.all()) else mask)

    def _begin(self, _: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen, images = options.pop("seen", None), options.pop("images", None)
        _GIVEN.set(None if seen is None else (seen, images))
        return args, options

    def _end(self, *_: Any) -> None:
        _GIVEN.set(None)

    def _look(self, name: str, _: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if (given := _GIVEN.get()) is None:
            return None
        seen, images = given
        look = partial(self.layers[name], mask=seen.mask, images=images)
        if args:
            return (look(args[0], *seen.projected[name]), *args[1:]), options
        return args, {**options, "hidden_states": look(options["hidden_states"], *seen.projected[name])}


class CrossAttentionNetwork(GitNetwork):
    """An image encoder and a causal language model whose texts look at the features by layers of their own.

    A text begins with its prompt. Where that has no tokens, a start token stands in its place.
    """

    cross_attention: CrossAttention

    def __init__(
        self,
        image_encoder: ImageEncoder,
        language_model: PreTrainedModel,
        cross_attention: CrossAttention,
        start_token: int,
        temporal: TemporalEmbedding | None = None,
    ) -> None:
        """Join the parts, which keep their devices and dtypes."""
        super().__init__(image_encoder, None, language_model, temporal)
        self.cross_attention = cross_attention
        self.start_token = start_token
        self._packs = [None]  # a layer looks from each row of hidden states at one image
        cross_attention.join(language_model)

    def replace_language_model(self, language_model: PreTrainedModel) -> None:
        """Take another language model, with the layers in it."""
        super().replace_language_model(language_model)
        self.cross_attention.join(language_model)

    def compile_for_training(self) -> None:
        """Raises UsageError: what is compiled would not look at the images."""
        raise UsageError("'compile': layers of cross_attention cannot be compiled; leave it out")

    def prefixed(self, features: Features) -> Prefix:
        """A prefix of no rows, and what the language model looks at in its place.

        Raises:
            UsageError: the features are the prefixes of another captioner's mapper.
        """
        if isinstance(features, Sight):
            return features
        if isinstance(features, Prefix):
            raise UsageError("prefixes were given, and a captioner with cross-attention has none: give it features")
        count, device = len(features.values), input_device(self.language_model)
        embedding = self._embed_tokens
        empty = torch.zeros(count, 0, embedding.embedding_dim, dtype=embedding.weight.dtype, device=device)
        images = torch.arange(count, device=device)
        return Sight(empty, images.new_ones(count, 0).bool(), self.cross_attention.see(features), images)

    def language_inputs(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> LanguageInputs:
        """The embedded prompt of each row, left-padded, and what it looks at."""
        return super().language_inputs(features, self._started(prompt_ids))

    def token_logprobs(self, features: Features, batch: TextBatch) -> Tensor:
        """Log-probabilities float32[B, T] of the target tokens, 0 after a row's last one."""
        return super().token_logprobs(features, replace(batch, prompt_ids=self._started(batch.prompt_ids)))

    def _started(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        return [list(ids) or [self.start_token] for ids in prompt_ids]


def build_cross_attention(
    config: CrossAttentionConfig, vision_width: int, language_model: PreTrainedModel
) -> CrossAttention:
    """New layers for a language model, on the CPU.

    Raises:
        UsageError: it has no such blocks, or its width is not shared by so many heads.
    """
    settings: Any = language_model.config.get_text_config()
    width, there = settings.hidden_size, len(blocks_of(language_model))
    if there != settings.num_hidden_layers or max(config.blocks) >= there:
        raise UsageError(
            f"'cross_attention': layers before blocks {', '.join(map(str, config.blocks))} were asked for, and of "
            f"{type(language_model).__name__} {there} blocks are known (0 to {there - 1})"
        )
    if width % config.heads:
        raise UsageError(f"'cross_attention': {config.heads} heads cannot share the language model's width of {width}")
    return CrossAttention(config.blocks, width, vision_width, config.heads)
