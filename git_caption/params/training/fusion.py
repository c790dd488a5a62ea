"""How the image reaches the language model of a new captioner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from git_caption.params.model import Fusion
from git_caption.params.schema import key

EVERY = re.compile(r"every:([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class FusionParams:
    """A prefix, or layers of cross-attention and where in the language model they are."""

    fusion: Fusion = key(
        "prefix",
        help="prefix: a mapper makes rows that stand before the text; cross_attention: new layers in the language "
        "model look at the features, and there is no mapper",
    )
    nb_ca: int | None = key(
        None,
        minimum=1,
        help="layers of cross_attention, each before a block of the language model; None: 1, or with every:K as many "
        "as there is room for",
    )
    ca_layers: str | None = key(
        None,
        help="which blocks have one: the first, the last, or every:K, each K-th from the first on; None: first",
    )

    @property
    def crosses(self) -> bool:
        """Whether the language model gets layers of cross-attention."""
        return self.fusion == "cross_attention"

    def blocks(self, there: int) -> list[int]:
        """The numbers of the blocks that get a layer, of a language model with so many; one too high is asked for.

        Example, 6 blocks: 2 first ones are 0 and 1, 2 last ones 4 and 5, every:2 is 0, 2 and 4.
        """
        if every := EVERY.fullmatch(self.ca_layers or ""):
            step = int(every[1])
            count = self.nb_ca or -(-there // step)
            return [number * step for number in range(count)]
        count = self.nb_ca or 1
        first = max(0, there - count) if self.ca_layers == "last" else 0
        return list(range(first, first + count))

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Options of another fusion, and places that are none, as (keys concerned, message)."""
        for name in ("nb_ca", "ca_layers"):
            if getattr(self, name) is not None and not self.crosses:
                yield (name, "fusion"), f"{name!r}: an option of 'fusion': 'cross_attention', found {self.fusion!r}"
        if self.ca_layers not in (None, "first", "last") and not EVERY.fullmatch(self.ca_layers or ""):
            yield ("ca_layers",), f"'ca_layers': expected first, last or every:K, found {self.ca_layers!r}"
