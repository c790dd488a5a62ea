"""What TSV files that belong together are called: row i of each is of one image."""

from __future__ import annotations

import os

IMAGES, CAPTIONS, QUESTIONS = ".img.tsv", ".caption.tsv", ".question.tsv"
TSV = ".tsv"


def stem(image_tsv: str) -> str:
    """What the names of an image TSV and its companions begin with."""
    return image_tsv.removesuffix(IMAGES) if image_tsv.endswith(IMAGES) else image_tsv.removesuffix(TSV)


def caption_tsv(image_tsv: str) -> str:
    """Captions beside an image TSV."""
    return stem(image_tsv) + CAPTIONS


def question_tsv(image_tsv: str, captions: bool = False) -> str:
    """Questions beside an image TSV.

    Those of `NAME.tsv` are `NAME.caption.tsv`, as the GIT tool calls them, where there are no captions of that name.
    """
    return stem(image_tsv) + (QUESTIONS if captions or image_tsv.endswith(IMAGES) else CAPTIONS)


def companions(image_tsv: str) -> list[str]:
    """The TSVs that are there beside an image TSV."""
    return [name for kind in (CAPTIONS, QUESTIONS) if os.path.isfile(name := stem(image_tsv) + kind)]
