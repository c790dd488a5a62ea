"""Parameters of the jobs that turn one file format into another."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class VqaJsonParams:
    """Keys of `convert_tsv_to_vqa_json`."""

    predict_file: str = key(
        help="TSV of answers, one JSON a line", kind="input_file", example="inference/example/answers.tsv"
    )
    out_json: str = key(
        help="JSON to write, for submission to EvalAI", kind="output_file", example="inference/example/answers.json"
    )


@dataclass(frozen=True, kw_only=True)
class CocoFormatParams:
    """Keys of `convert_tsv_to_coco_format`."""

    res_tsv: str = key(
        help="TSV of captions: key, JSON list of one caption",
        kind="input_file",
        example="inference/example/captions.tsv",
    )
    outfile: str = key(
        help="JSON to write, a list of image_id and caption",
        kind="output_file",
        example="inference/example/captions.json",
    )


@dataclass(frozen=True, kw_only=True)
class CaptionJsonParams:
    """Keys of `convert_caption_tsv_to_coco_json`."""

    caption_tsv: str = key(
        help="TSV of references: key, JSON list of captions", kind="input_file", example="data/shapes/test.caption.tsv"
    )
    outfile: str = key(
        help="COCO annotation JSON to write", kind="output_file", example="inference/example/references.json"
    )
