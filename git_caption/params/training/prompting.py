"""Whose caption of a picture stands before the captions that are trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from git_caption.params.decoding import DecodingParams
from git_caption.params.model import BASE_CAPTION, base_template_fault
from git_caption.params.schema import key

TEMPLATE = f" is a picture of {BASE_CAPTION} and a social media post would caption it"


@dataclass(frozen=True, kw_only=True)
class PromptingParams:
    """A frozen base captioner, and the template that its captions of the pictures are put into."""

    prompted: bool = key(
        False, help="a caption by a frozen base captioner stands before each caption that is trained, in base_template"
    )
    base_captioner: str | None = key(
        None,
        help="checkpoint, pretrained captioner or old tool's file whose captions these are; None: init_from's base "
        "captioner, or init_from as it is before this run",
        kind="model",
    )
    base_template: str | None = key(
        None,
        help=f"text before each caption, {BASE_CAPTION} stands for the base captioner's; None: that of init_from, or "
        f"'{TEMPLATE}'",
    )
    base_decoding: DecodingParams | None = key(
        None, help="how the base captioner's captions are decoded; None: as it says itself"
    )
    base_captions: str | None = key(
        None,
        help="folder that keeps the base captioner's captions for runs to come; None: base_captions/ beside output_dir",
        kind="output_dir",
    )

    def folder(self, output_dir: str) -> str:
        """Where the captions are kept."""
        return self.base_captions or os.path.join(os.path.dirname(os.path.abspath(output_dir)), "base_captions")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Keys of a base captioner that is not asked for, as (keys concerned, message)."""
        for name in ("base_captioner", "base_template", "base_decoding", "base_captions"):
            if not self.prompted and getattr(self, name) is not None:
                yield (name, "prompted"), f"{name!r}: is of the base captioner; ask for one with 'prompted': True"
        if self.base_template is not None and (fault := base_template_fault(self.base_template)) is not None:
            yield ("base_template",), f"'base_template': {fault}"
