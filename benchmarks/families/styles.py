"""Caption styles: captions of one of the five forms, and what of a captioner's texts is in that form and right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

from git_caption.shapes.parser import attribute_accuracy
from git_caption.shapes.scenes import scene_from_json
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import CaptionRow, parse_caption_row
from git_caption.tsv.writer import TsvWriter

PLAIN, COUNTED = 0, 4  # places among a scene's five captions
OPENERS = {PLAIN: re.compile(r"a "), COUNTED: re.compile(r"\w+ objects?: ")}  # of the five forms each fits one alone


def write_style(caption_tsv: str, form: int, out: str) -> None:
    """Write a caption TSV with one of each picture's captions, that of the form."""
    with TsvFile(caption_tsv) as rows, TsvWriter(Path(out)) as writer:
        for number, columns in enumerate(rows):
            row = parse_caption_row(columns, rows.where(number))
            writer.write(CaptionRow(row.key, (row.captions[form],)).columns())


def accuracy_in_style(captions: Path, scenes: Path, form: int) -> float:
    """Attribute accuracy in %, where a caption of another form counts as wrong.

    Args:
        captions: TSV of what was said.
        scenes: TSV of the truth, row by row.
        form: the one wanted.
    """
    right = []
    with TsvFile(captions) as said, TsvFile(scenes) as truths:
        for number, columns in enumerate(said):
            caption = parse_caption_row(columns, said.where(number)).captions[0]
            scene = scene_from_json(json.loads(truths.columns(number)[1])["objects"], truths.where(number))
            right.append(attribute_accuracy(caption, scene) if OPENERS[form].match(caption) else 0.0)
    return 100 * fmean(right)
