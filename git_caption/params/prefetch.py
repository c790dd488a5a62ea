"""Parameters of the job that fetches weights ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class PrefetchParams:
    """Keys of `prefetch`."""

    ids: tuple[str, ...] = key(
        help="image encoders (ViT-B/32, ViT-B-32:laion2b_s34b_b79k), GIT's model names and repositories on the hub "
        "(gpt2), one or a list",
        example=["ViT-B/32", "gpt2"],
    )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Nothing to fetch, as (keys concerned, message)."""
        if not self.ids or not all(self.ids):
            yield ("ids",), f"'ids': expected at least one name and no empty ones, found {list(self.ids)}"
