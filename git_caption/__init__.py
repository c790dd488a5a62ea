"""Image captioning and visual question answering: CLIP features, a mapping network, a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from git_caption.captioner.captioner import Captioner as Captioner
    from git_caption.pipeline.caption_batches import CaptionBatches as CaptionBatches

__all__ = ["CaptionBatches", "Captioner"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import git_caption` costs nothing."""
    if name == "Captioner":
        from git_caption.captioner.captioner import Captioner

        return Captioner
    if name == "CaptionBatches":
        from git_caption.pipeline.caption_batches import CaptionBatches

        return CaptionBatches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
