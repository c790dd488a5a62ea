"""Parameters of the job that makes a checkpoint self-contained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.infer import ModelParams
from git_caption.params.schema import group, key


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """Keys of `export`."""

    out_dir: str = key(
        help="checkpoint directory to write, or whose checkpoint is replaced",
        kind="output_dir",
        example="inference/example/model",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = key(
        "float32", help="precision of what is stored, but for a language model in 8 or 4 bits"
    )
    quantization: Literal["none", "8bit", "4bit"] | None = key(
        None, help="of the language model's weights; None: as the checkpoint says"
    )
    model: ModelParams = group(ModelParams, "model")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """How images are seen stays the checkpoint's, as (keys concerned, message)."""
        for name in ("test_crop_size", "test_respect_ratio_max"):
            if getattr(self.model, name) is not None:
                yield (name,), f"'{name}': is given when a checkpoint is used, and not stored: leave it out"
