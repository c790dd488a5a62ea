"""Output TSVs as the JSON files that other tools read, byte for byte as the original tools wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.params.convert import CaptionJsonParams, CocoFormatParams, VqaJsonParams
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import CaptionRow, dumps, parse_answer_row, parse_caption_row
from git_caption.tsv.writer import write_atomically


def tsv_to_vqa_json(params: VqaJsonParams) -> None:
    """A TSV of answers as the list that EvalAI takes: sorted keys, no spaces.

    Raises DataError naming file and row.
    """
    answers = []
    with TsvFile(params.predict_file) as rows:
        for number, columns in enumerate(rows):
            parse_answer_row(columns, rows.where(number))
            try:
                answers.append(dumps(json.loads(columns[0])))  # further keys, such as scores, stay
            except ValueError as error:
                raise DataError(
                    f"{rows.where(number)}: column 1 holds NaN or an infinity, which is not JSON; expected numbers"
                ) from error
    write_text(params.out_json, f"[{','.join(answers)}]")
    print(f"{len(answers)} answers: {params.out_json}")


def tsv_to_coco_format(params: CocoFormatParams) -> None:
    """A TSV of captions as COCO results, one caption an image.

    Raises DataError naming file and row.
    """
    rows, several = first_captions(params.res_tsv)
    write_text(params.outfile, coco_results(rows))
    print(f"{len(rows)} captions: {params.outfile}")
    if several:
        print(f"{several} images have several captions; the first of each was taken")


def caption_tsv_to_coco_json(params: CaptionJsonParams) -> None:
    """A TSV of references as COCO annotations, numbered from 0.

    Raises DataError naming file and row.
    """
    rows = caption_rows(params.caption_tsv)
    annotations = [(row.key, caption) for row in rows for caption in row.captions]
    document = {
        "info": "dummy",
        "licenses": "dummy",
        "type": "captions",
        "images": [{"file_name": row.key, "id": row.key} for row in rows],
        "annotations": [
            {"image_id": key, "caption": caption, "id": number} for number, (key, caption) in enumerate(annotations)
        ],
    }
    write_text(params.outfile, json.dumps(document))
    print(f"{len(annotations)} captions of {len(rows)} images: {params.outfile}")


def coco_results(rows: list[tuple[str, str]]) -> str:
    """Keys and captions in the form of COCO's result files."""
    return json.dumps([{"image_id": key, "caption": caption} for key, caption in rows])


def first_captions(path: str) -> tuple[list[tuple[str, str]], int]:
    """Key and first caption of each row, and how many rows have more than one.

    An empty list, or no second column, is an empty caption. Raises DataError naming file and row.
    """
    rows = caption_rows(path, lacking="[]")
    return [(row.key, row.captions[0] if row.captions else "") for row in rows], sum(
        len(row.captions) > 1 for row in rows
    )


def caption_rows(path: str, lacking: str | None = None) -> list[CaptionRow]:
    """The rows of a caption TSV; `lacking` stands for a second column that is empty or not there.

    Raises DataError naming file and row.
    """
    found = []
    with TsvFile(path) as rows:
        for number, columns in enumerate(rows):
            if lacking is not None and not "".join(columns[1:]).strip():
                columns = [columns[0], lacking]
            found.append(parse_caption_row(columns, rows.where(number)))
    return found


def write_text(path: str, text: str) -> None:
    """Puts `text` under `path` at once; missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode("utf-8"))


def write_json(path: str, value: Any, indent: int | None = None) -> None:
    """`value` as JSON in the spelling of `json.dump`."""
    write_text(path, json.dumps(value, indent=indent))
