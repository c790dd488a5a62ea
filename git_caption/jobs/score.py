"""Scoring captions against references with the metrics of COCO."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from git_caption.errors import DataError
from git_caption.jobs.convert import caption_rows, coco_results, first_captions, write_json, write_text
from git_caption.metrics.coco import Scores, score
from git_caption.params.score import CocoCaptionParams


@dataclass(frozen=True)
class Candidates:
    """Image ids, as texts, with a caption each; `several` of them had more than one in their row."""

    rows: list[tuple[str, str]]
    several: int = 0

    @property
    def captions(self) -> dict[str, str]:
        """Caption by image; of an image given more than once the last."""
        return dict(self.rows)

    @property
    def duplicates(self) -> int:
        """How many rows a later one replaces."""
        return len(self.rows) - len(self.captions)


def coco_caption(params: CocoCaptionParams) -> None:
    """Score a file of captions, print a table, write the scores and those of each image.

    Raises:
        DataError: a file is not what its format says, or the captions are not of the images of the references.
    """
    candidates = read_candidates(params.captions)
    if params.coco_format_file is not None:
        _write_beside(params.coco_format_file, candidates.rows)
    references = read_references(params.references)
    try:
        scores = score(candidates.captions, references, params.metrics)
    except DataError as error:
        raise DataError(f"{params.captions}, scored against {params.references}: {error}") from error
    write_json(params.scores_file, _document(scores, candidates), indent=None if params.res_file is None else 4)
    entries = [{"image_id": image, **values} for image, values in scores.per_image.items()]
    write_json(params.per_image_file, entries)
    print(_table(scores, candidates))
    print(f"scores: {params.scores_file}\nscores of each image: {params.per_image_file}")


def read_candidates(path: str) -> Candidates:
    """Captions from a TSV (by its ending), a list of COCO results or COCO annotations.

    Raises DataError naming file and row or entry.
    """
    return Candidates(*first_captions(path)) if path.endswith(".tsv") else Candidates(_entries(path))


def read_references(path: str) -> dict[str, list[str]]:
    """Captions by image from the same kinds of files; where an image is there more than once, all its captions count.

    Raises DataError naming file and row or entry.
    """
    found: dict[str, list[str]] = {}
    if path.endswith(".tsv"):
        for row in caption_rows(path):
            found.setdefault(row.key, []).extend(row.captions)
    else:
        for image, caption in _entries(path):
            found.setdefault(image, []).append(caption)
    return found


def _entries(path: str) -> list[tuple[str, str]]:
    """Image ids, as texts, and captions of a JSON file in one of COCO's forms."""
    expected = 'a list of {"image_id": ..., "caption": ...}, by itself or under "annotations"'
    try:
        with open(path, encoding="utf-8-sig") as file:
            document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}), expected {expected}") from error
    entries = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise DataError(f"{path}: found {_short(document)}, expected {expected}")
    found = []
    for number, entry in enumerate(entries, 1):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        caption = entry.get("caption") if isinstance(entry, dict) else None
        if isinstance(image, bool) or not isinstance(image, int | str) or not isinstance(caption, str):
            raise DataError(f"{path}: entry {number} is {_short(entry)}, expected {expected}")
        found.append((str(image), caption))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _write_beside(path: str, rows: list[tuple[str, str]]) -> None:
    """The COCO form of a TSV's captions, which the original tool leaves beside it."""
    try:
        write_text(path, coco_results(rows))
    except OSError as error:  # a folder one may only read keeps nobody from scoring
        print(f"{path}: not written: {error.strerror}", file=sys.stderr)


def _document(scores: Scores, candidates: Candidates) -> dict[str, Any]:
    """The metrics on top, as the original tools have them, then how they came about."""
    return {
        **scores.overall,
        "tokenizer": scores.tokenizer,
        "images": scores.images,
        "references": scores.references,
        "coverage": scores.coverage,
        "duplicates": candidates.duplicates,
        "reasons": scores.reasons,
    }


def _table(scores: Scores, candidates: Candidates) -> str:
    width = max(map(len, scores.overall))
    lines = [
        f"{name:<{width}}  {value:.3f}" if value is not None else f"{name:<{width}}  null   {scores.reasons[name]}"
        for name, value in scores.overall.items()
    ]
    lines.append(f"{scores.images} of {scores.references} images scored; tokenizer: {scores.tokenizer}")
    lines += scores.notes
    if candidates.duplicates:
        lines.append(f"{candidates.duplicates} captions are for an image that has one already; the last was scored")
    if candidates.several:
        lines.append(f"{candidates.several} images have several captions; the first of each was scored")
    return "\n".join(lines)
