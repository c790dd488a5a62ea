"""Which parts are trained, and in which way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from git_caption.errors import UsageError
from git_caption.params.model import AdapterConfig
from git_caption.params.schema import key, to_dict


@dataclass(frozen=True, kw_only=True)
class TuningParams:
    """What of the network is trained."""

    tune: Literal["full", "lora", "head", "mapper"] = key(
        "mapper",
        help="mapper: the mapper alone, or the cross-attention in its place; full: the language model too; lora: LoRA "
        "on the language model too; head: the language model's output layer alone, with its input embeddings where the "
        "two are one tensor, as in GPT-2",
    )
    train_mapper: bool | None = key(
        None,
        help="train the mapper or the cross-attention in its place; None: yes, but not where the head alone is trained",
    )
    train_image_encoder: bool = key(False, help="train the image encoder too")
    lora_rank: int | None = key(None, minimum=1, help="width of LoRA's matrices; None: 16")
    lora_alpha: float | None = key(None, above=0, help="what they give counts lora_alpha / lora_rank times; None: 32")
    lora_dropout: float | None = key(
        None, minimum=0, maximum=0.9, help="part of their inputs left out in training; None: 0.05"
    )
    lora_dora: bool | None = key(None, help="DoRA: the length of each column of weights is trained by itself; None: no")
    lora_targets: str | None = key(
        None,
        help="layers of the language model's blocks that LoRA stands beside: attention, feed_forward, both or their "
        "own names, as q_proj; several with commas; None: both",
    )
    lora_merge: bool = key(
        False, help="add LoRA to the language model's weights at the end and store these, not an adapter/"
    )

    @property
    def mapper_trained(self) -> bool:
        """Whether the mapper is trained."""
        return self.tune != "head" if self.train_mapper is None else self.train_mapper

    @property
    def changes_language_model(self) -> bool:
        """Whether the language model's own weights are others after the run."""
        return self.tune in ("full", "head") or self.lora_merge

    def adapter(self, found: AdapterConfig | None, source: str) -> AdapterConfig:
        """The adapter to train: a new one, or the one that was `found` in the checkpoint `source`, as it is.

        Raises:
            UsageError: the one found is another than the one asked for.
        """
        asked = {name: value for name, value in self._lora.items() if value is not None}
        if found is None:
            return replace(AdapterConfig(), **asked)
        held = to_dict(found)
        if other := [
            f"'lora_{name}' is {held[name]!r}, not {asked[name]!r}" for name in asked if asked[name] != held[name]
        ]:
            raise UsageError(
                f"{source} has an adapter, which is trained further: {'; '.join(other)}; leave these keys out"
            )
        return found

    @property
    def _lora(self) -> Mapping[str, Any]:
        """Keys of the adapter, by its own names; None where not given."""
        return {name: getattr(self, f"lora_{name}") for name in to_dict(AdapterConfig())}

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Options of what is not done, and nothing to train, as (keys concerned, message)."""
        given = [f"lora_{name}" for name, value in self._lora.items() if value is not None]
        for name in [*given, *(["lora_merge"] if self.lora_merge else [])]:
            if self.tune != "lora":
                yield (name, "tune"), f"{name!r}: an option of 'tune': 'lora', found 'tune': {self.tune!r}"
        if self.tune == "mapper" and not self.mapper_trained and not self.train_image_encoder:
            yield ("tune", "train_mapper"), "'train_mapper': False, and nothing else is trained; see 'tune'"
