"""What a job is, in text: its keys, their types, defaults and meaning, and an example that runs."""

from __future__ import annotations

import textwrap
from typing import Any

from git_caption.jobs import table
from git_caption.params.help import HelpParams
from git_caption.params.schema import KeyRow, describe

WIDTH = 110

MODEL, IMAGES = "data/shapes/model", "data/shapes/test.img.tsv"


def command(params: dict[str, Any]) -> str:
    """The command line of a job."""
    return f'python3 inference.py -p "{params}"'


_TSV = {"type": "test_git_inference_single_tsv", "model_path": MODEL, "image_tsv": IMAGES}
_CAPTIONS = command({**_TSV, "out_tsv": "inference/example/captions.tsv"})
_QUESTIONS = "data/shapes/test.question.tsv"
BEFORE = {
    "test_git_inference_single_image": (
        f"mkdir -p inference && head -n 1 {IMAGES} | cut -f 2 | base64 -d > inference/scene.jpg"
    ),
    "evaluate_on_coco_caption": _CAPTIONS,
    "convert_tsv_to_coco_format": _CAPTIONS,
    "webdataset_to_tsv": command(
        {"type": "tsv_to_webdataset", "tsv": IMAGES, "out_tar": "inference/example/shapes.tar", "rows_per_tar": 200}
    ),
    "parquet_to_tsv": command(
        {"type": "tsv_to_parquet", "tsv": IMAGES, "out_parquet": "inference/example/shapes.parquet"}
    ),
    "convert_tsv_to_vqa_json": command(
        {**_TSV, "question_tsv": _QUESTIONS, "out_tsv": "inference/example/answers.tsv"}
    ),
}
"""Jobs whose example reads a file that is to be made → the command that makes it."""

NEEDS = {
    "test_git_inference_coco": "COCO's images and annotations in data/coco",
    "prepare_cc3m": "Conceptual Captions in data/conceptual",
    "prepare_coco": "COCO's images and annotations in data/coco",
    "prepare_coco_test": "COCO's images and dataset_coco.json in data/coco",
    "prepare_vqav2": "VQAv2 in data/vqav2",
    "prepare_nice": "NICE in data/nice",
    "prepare_instagram": "a data set of Hugging Face in data/instagram_data",
    "prepare_json": "such a list in data/train.json",
    "prepare_flickr8k": "Flickr8k in data/flickr8k",
    "prefetch": "a network",
}
"""What an example needs that a clone does not bring."""


def show(params: HelpParams) -> None:
    """Print the help of one job, or a line for each of them."""
    print(job_list() if params.job is None else job_help(params.job))


def job_list() -> str:
    """A line for each job."""
    widest = max(map(len, table.JOBS))
    return "\n".join(f"{name:<{widest}}  {job.summary}" for name, job in table.JOBS.items())


def job_help(name: str) -> str:
    """Keys and examples of the job called `name`.

    Raises:
        UsageError: there is no such job.
    """
    job = table.find(name)
    rows = describe(job.load_params())
    parts = [f"{name}: {job.summary}"]
    for title in sorted({row.group: row for row in rows}, key=bool):  # the job's own keys first
        heading = f"{title} keys" if title else "keys"
        parts.append("\n".join([heading, *_rows([row for row in rows if row.group == title])]))
    heading = "example" + (f" (needs {NEEDS[name]})" if name in NEEDS else "")
    parts.append("\n".join([heading, *("  " + step for step in steps(name))]))
    return "\n\n".join(parts)


def steps(name: str) -> list[str]:
    """The command lines that make up the example of the job called `name`, in the order they run."""
    rows = describe(table.find(name).load_params())
    example = command({"type": name} | {row.name: row.example for row in rows if row.example is not None})
    return [BEFORE[name], example] if name in BEFORE else [example]


def _rows(rows: list[KeyRow]) -> list[str]:
    """A line for each key, wrapped: name, type, default, meaning."""
    widest = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        default = "required" if row.required else f"default {row.default}"
        text = f"{row.help} [{row.type}; {default}]"
        indent = " " * (widest + 4)
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {row.name:<{widest}}  ", subsequent_indent=indent, break_on_hyphens=False
        )
    return lines
