"""The jobs by name. Functions and parameter classes are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from git_caption.errors import UsageError
from git_caption.params.schema import nearest


@dataclass(frozen=True)
class Job:
    """One row of the table: `module:name` of a function and of the parameter class that it takes.

    on_ranks: whether several processes that a launcher starts may run it, and share the work; each calls the function.
    by_itself: whether each of them does all of it, and meets no other.
    """

    function: str
    params: str
    summary: str
    on_ranks: bool = False
    by_itself: bool = False

    def load_function(self) -> Callable[[Any], None]:
        """The function; it takes an instance of the parameter class and prints what it has to say."""
        function: Callable[[Any], None] = _named(self.function)
        return function

    def load_params(self) -> type[Any]:
        """The parameter class."""
        cls: type[Any] = _named(self.params)
        return cls


def _job(function: str, params: str, summary: str, on_ranks: bool = False, by_itself: bool = False) -> Job:
    return Job(f"git_caption.jobs.{function}", f"git_caption.params.{params}", summary, on_ranks, by_itself)


JOBS = {
    "test_git_inference_single_image": _job(
        "infer:single_image",
        "infer:SingleImageParams",
        "caption an image, a folder or the frames of a video, or answer",
    ),
    "test_git_inference_single_tsv": _job(
        "infer:single_tsv",
        "infer:SingleTsvParams",
        "caption an image TSV, or answer the questions about it",
        on_ranks=True,
    ),
    "test_git_inference_coco": _job("infer:coco", "infer:CocoParams", "caption a split of COCO"),
    "evaluate_on_coco_caption": _job(
        "score:coco_caption", "score:CocoCaptionParams", "score captions with the metrics of COCO"
    ),
    "evaluate_on_shapes": _job(
        "shapes:evaluate", "shapes:ShapesScoreParams", "caption, answer and score the embedded example, with baselines"
    ),
    "convert_tsv_to_vqa_json": _job(
        "convert:tsv_to_vqa_json", "convert:VqaJsonParams", "answers in a TSV → the JSON that EvalAI takes"
    ),
    "convert_tsv_to_coco_format": _job(
        "convert:tsv_to_coco_format", "convert:CocoFormatParams", "captions in a TSV → COCO result JSON"
    ),
    "convert_caption_tsv_to_coco_json": _job(
        "convert:caption_tsv_to_coco_json", "convert:CaptionJsonParams", "references in a TSV → COCO annotation JSON"
    ),
    "prepare_cc3m": _job(
        "prepare:cc3m", "prepare:Cc3mParams", "Conceptual Captions → TSVs, of the images that were downloaded", True
    ),
    "prepare_coco": _job(
        "prepare:coco_captions", "prepare:CocoPrepareParams", "a split of COCO, or of Karpathy's → TSVs", True
    ),
    "prepare_coco_test": _job(
        "prepare:coco_test", "prepare:CocoTestParams", "Karpathy's test split of COCO → TSVs, as the GIT tool", True
    ),
    "prepare_vqav2": _job("prepare:vqav2", "prepare:VqaV2Params", "a split of VQAv2 → TSVs", True),
    "prepare_nice": _job("prepare:nice", "prepare:NiceParams", "NICE's images and captions → TSVs", True),
    "prepare_instagram": _job(
        "prepare:instagram", "prepare:InstagramParams", "a data set of Hugging Face (image, caption) → TSVs", True
    ),
    "prepare_folder": _job("prepare:folder", "prepare:FolderParams", "a folder of images → TSVs", True),
    "prepare_json": _job("prepare:json_list", "prepare:JsonParams", "a JSON list of text and image → TSVs", True),
    "prepare_flickr8k": _job("prepare:flickr8k", "prepare:Flickr8kParams", "a split of Flickr8k → TSVs", True),
    "tsv_info": _job("tsv_info:info", "tsv_tools:InfoParams", "tell what is in a TSV and those beside it"),
    "tsv_shuffle": _job("tsv_tools:shuffle", "tsv_tools:ShuffleParams", "the rows of a TSV in a random order", True),
    "tsv_split": _job("tsv_tools:split", "tsv_tools:SplitParams", "a TSV → several, by numbers of rows", True),
    "tsv_merge": _job("tsv_tools:merge", "tsv_tools:MergeParams", "several TSVs → one", True),
    "tsv_filter": _job(
        "tsv_tools:filtered", "tsv_tools:FilterParams", "rows by score, length, expression, or without duplicates", True
    ),
    "tsv_to_webdataset": _job(
        "exchange:tsv_to_webdataset", "tsv_tools:ToWebDatasetParams", "an image TSV with its companions → tars", True
    ),
    "webdataset_to_tsv": _job(
        "exchange:webdataset_to_tsv", "tsv_tools:FromWebDatasetParams", "tars → an image TSV with its companions", True
    ),
    "tsv_to_parquet": _job(
        "exchange:tsv_to_parquet", "tsv_tools:ToParquetParams", "an image TSV with its companions → Parquet", True
    ),
    "parquet_to_tsv": _job(
        "exchange:parquet_to_tsv", "tsv_tools:FromParquetParams", "Parquet → an image TSV with its companions", True
    ),
    "validate_data": _job(
        "validate:validate_data",
        "validate:ValidateDataParams",
        "look through data to train on: counts, lengths, bad rows",
    ),
    "extract_features": _job(
        "features:extract",
        "features:ExtractParams",
        "encode images once, into a feature cache to caption or train from",
        on_ranks=True,
    ),
    "export": _job(
        "export:export", "export:ExportParams", "store all parts of a captioner in one checkpoint; convert an old file"
    ),
    "prefetch": _job("prefetch:prefetch", "prefetch:PrefetchParams", "fetch weights into the cache, for runs offline"),
    "make_shapes": _job("shapes:make", "shapes:ShapesDataParams", "make the embedded example's TSVs anew"),
    "submit": _job("submit:submit", "submit:SubmitParams", "give a job or a training to Slurm"),
    "doctor": _job(
        "doctor:doctor",
        "doctor:DoctorParams",
        "tell what this machine has, and what would not work on it",
        on_ranks=True,
        by_itself=True,
    ),
    "help": _job("help:show", "help:HelpParams", "explain a job: its keys, their meaning, an example that runs"),
}


def find(name: object) -> Job:
    """The job called `name`.

    Raises:
        UsageError: there is none; the message has the most alike name and all of them.
    """
    if isinstance(name, str) and name in JOBS:
        return JOBS[name]
    shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
    raise UsageError(f"unknown job type {shown}{nearest(str(name)[:80], JOBS) or '.'} Known: {', '.join(JOBS)}")


def name_of(job: Job) -> str:
    """What a job of the table is called."""
    return next(name for name, row in JOBS.items() if row == job)


def _named(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)
