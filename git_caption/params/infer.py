"""Parameters of the inference jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from git_caption.params.decoding import DecodingParams
from git_caption.params.packages import missing_for
from git_caption.params.pretrained import GIT_MODELS
from git_caption.params.running import RunningParams
from git_caption.params.schema import group, key, nearest

UNASKED = "a base captioner's caption stands before captions alone"
MappingType = Literal["None", "linear", "linearLn", "mlp", "transformer", "encoder_layer"]


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """Which captioner, and for an old tool's file what that file does not say."""

    model_path: str | None = key(
        None,
        help="checkpoint directory, folder or repository of a pretrained captioner, or an old tool's file",
        kind="model",
        example="data/shapes/model",
    )
    model_name: str | None = key(None, help="a model of the GIT tool, in place of model_path: GIT_BASE_COCO, ...")
    image_encoder_type: str | None = key(None, help="image encoder of an old file: ViT-B/32, RN50, ... or a local file")
    language_model: str | None = key(None, help="language model of an old file: a repository on the hub or a folder")
    mapping_type: MappingType | None = key(
        None, help="mapper of an old file; the text 'None' is linear, as it was there"
    )
    output_grid: bool | None = key(None, help="an old file's encoder gives a grid (True) or one pooled row (False)")
    input_resolution: int | None = key(None, minimum=1, help="side of the image that an old file's encoder sees")
    test_crop_size: int | None = key(
        None, minimum=1, help="side that images are resized to, where it shall be another than the model's own"
    )
    test_respect_ratio_max: int | None = key(
        None, minimum=1, help="keep the shape of images, with a longer side of at most this; else a square is cut out"
    )

    @property
    def mapper(self) -> str | None:
        """`mapping_type` under the mapper's own name."""
        return "linear" if self.mapping_type == "None" else self.mapping_type

    @property
    def told(self) -> dict[str, Any]:
        """What is said of the captioner beside its path, by key."""
        told = [field.name for field in fields(self) if field.name not in ("model_path", "model_name")]
        return {name: getattr(self, name) for name in told if getattr(self, name) is not None}

    @property
    def path(self) -> str:
        """`model_path`, or the repository that `model_name` stands for."""
        path = self.model_path if self.model_name is None else GIT_MODELS[self.model_name]
        assert path is not None, "check() has seen that one of the two is given"
        return path

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Which captioner has to be said once, by a known name, as (keys concerned, message)."""
        both = ("model_path", "model_name")
        if self.model_path is None and self.model_name is None:
            yield both, "missing key 'model_path': checkpoint directory, pretrained captioner, or an old tool's file"
        if self.model_path is not None and self.model_name is not None:
            yield both, "'model_path' and 'model_name' exclude each other; give one of them"
        if self.model_name is not None and self.model_name not in GIT_MODELS:
            hint = nearest(self.model_name, GIT_MODELS) or f"; known names: {', '.join(GIT_MODELS)}"
            yield ("model_name",), f"'model_name': expected a model of the GIT tool, found {self.model_name!r}{hint}"


@dataclass(frozen=True, kw_only=True)
class ChatParams:
    """What stands before a caption, and whether prompts are a chat, as instruct models were trained on."""

    prompted: bool | None = key(
        None,
        help="a caption by the checkpoint's base captioner stands before the caption; None: where it has one; False: "
        "captions without it",
    )

    chat: bool | None = key(
        None, help="prompts go through the chat template of the model's tokenizer; None: as the checkpoint says"
    )
    system: str | None = key(None, help="system message of the chat; None: as the checkpoint says")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A system message without a chat, as (keys concerned, message)."""
        if self.system and self.chat is False:
            yield ("system", "chat"), "'system': a message of a chat, and 'chat' is False: leave one of them out"


@dataclass(frozen=True, kw_only=True)
class SingleImageParams:
    """Keys of `test_git_inference_single_image`."""

    image_path: str | tuple[str, ...] = key(
        help="one image; a folder or glob for a line of output each; a list for the frames of one video",
        kind="input_path",
        example="inference/scene.jpg",
    )
    prompt: str = key("", help="a question, or nothing for a caption", aliases=("prefix",))
    model: ModelParams = group(ModelParams, "model")
    prompting: ChatParams = group(ChatParams, "chat")
    decoding: DecodingParams = group(DecodingParams, "decoding")
    running: RunningParams = group(RunningParams, "running")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A base caption before what is no caption, as (keys concerned, message)."""
        if self.prompt and self.prompting.prompted:
            yield ("prompt", "prompted"), f"'prompted': {UNASKED}, and 'prompt' is a question: leave it out"


@dataclass(frozen=True, kw_only=True)
class SingleTsvParams:
    """Keys of `test_git_inference_single_tsv`."""

    image_tsv: str | None = key(
        None,
        help="image TSV: key, base64 of an image file; or tars as shards/{00000..00012}.tar, Parquet, JSONL of paths",
        kind="images",
        example="data/shapes/test.img.tsv",
    )
    features: str | None = key(
        None,
        help="in place of image_tsv: a cache of its features, as extract_features writes it; a file of each image "
        "encoder with commas, where several are mixed",
        kind="input_files",
    )
    question_tsv: str | None = key(
        None,
        help="question TSV: key, JSON list of questions; None for captions",
        kind="input_file",
        example="data/shapes/test.question.tsv",
    )
    out_tsv: str = key(
        help="TSV to write; JSONL or Parquet where it ends in .jsonl or .parquet",
        kind="output_file",
        example="inference/example/answers.tsv",
    )
    model: ModelParams = group(ModelParams, "model")
    prompting: ChatParams = group(ChatParams, "chat")
    decoding: DecodingParams = group(DecodingParams, "decoding")
    running: RunningParams = group(RunningParams, "running")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Images or features, one of the two, as (keys concerned, message)."""
        both = ("image_tsv", "features")
        if self.image_tsv is None and self.features is None:
            yield both, "missing key 'image_tsv', or 'features' in its place"
        if self.image_tsv is not None and self.features is not None:
            yield both, "'image_tsv' and 'features' exclude each other; give one of them"
        if self.question_tsv is not None and self.prompting.prompted:
            yield (
                ("question_tsv", "prompted"),
                f"'prompted': {UNASKED}, and 'question_tsv' asks questions: leave it out",
            )
        for name in ("image_tsv", "out_tsv"):
            if message := missing_for(getattr(self, name)):
                yield (name,), f"{name!r}: {message}"


@dataclass(frozen=True, kw_only=True)
class CocoParams:
    """Keys of `test_git_inference_coco`."""

    data_dir: str = key(
        help="folder of COCO: annotations/captions_TYPE.json, and the images in TYPE/ or images/TYPE/",
        kind="input_dir",
        example="data/coco",
    )
    data_type: str = key(help="split, as val2017", example="val2017")
    out_file: str = key(
        help="JSON to write: a list of image_id and caption; a TSV of them goes to OUT_FILE.captions.tsv",
        kind="output_file",
        aliases=("json_path",),
        example="inference/example/coco.json",
    )
    p_test: float = key(1.0, above=0, maximum=1, help="part of the split's images to caption, from its beginning")
    model: ModelParams = group(ModelParams, "model")
    prompting: ChatParams = group(ChatParams, "chat")
    decoding: DecodingParams = group(DecodingParams, "decoding")
    running: RunningParams = group(RunningParams, "running")

    @property
    def annotations(self) -> str:
        """The split's annotation file."""
        return os.path.join(self.data_dir, "annotations", f"captions_{self.data_type}.json")

    @property
    def captions_tsv(self) -> str:
        """The TSV of the same captions, beside the JSON."""
        return f"{self.out_file}.captions.tsv"

    @property
    def also_written(self) -> tuple[str, ...]:
        """What the job writes beside `out_file`."""
        return (self.captions_tsv,)

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A split whose annotations are not there, or a JSON called a TSV, as (keys concerned, message)."""
        if self.out_file.lower().endswith(".tsv"):
            message = f"expected the name of a JSON file, found {self.out_file!r}"
            yield ("out_file",), f"'out_file': {message}; a TSV is written beside it"
        if self.data_dir and self.data_type and not os.path.isfile(self.annotations):
            yield ("data_dir", "data_type"), f"'data_type': no such annotation file: {self.annotations!r}"
