"""What a feature cache was made from, and the job that makes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from git_caption.params.differences import flat
from git_caption.params.infer import ModelParams
from git_caption.params.model import TransformConfig
from git_caption.params.running import RunningParams
from git_caption.params.schema import group, key, to_dict

What = Literal["features", "prefix"]
StoredAs = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class FeatureOrigin:
    """The image encoder that features are of, and how it sees images; of a prefix the mapper too."""

    image_encoder: str = key(help="name of the image encoder")
    weights: str = key(help="sha256 of its weights")
    output: Literal["grid", "pooled"] = key(help="one row per patch or cell, or the image embedding")
    keep_class_token: bool = key(True, help="the class token stands before a grid that has one")
    transform: TransformConfig = key(help="from image to pixels")
    mapper: str | None = key(None, help="sha256 of the mapper whose prefixes these are; None: features")

    @property
    def what(self) -> What:
        """Which of the two is stored."""
        return "features" if self.mapper is None else "prefix"

    def differences(self, other: FeatureOrigin) -> list[tuple[str, Any, Any]]:
        """What differs, as (name, own value, the other's).

        An encoder is told by its weights: a checkpoint may call it by another name, or by a path.
        """
        mine, theirs = dict(flat(to_dict(self))), dict(flat(to_dict(other)))
        if self.weights == other.weights:
            theirs["image_encoder"] = mine["image_encoder"]
        return [(name, mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, kw_only=True)
class CacheDescription:
    """What stands in a feature cache beside the features."""

    origin: FeatureOrigin = key(help="the image encoder, and how it sees images")
    inputs: tuple[dict[str, Any], ...] = key(help="path, size and time of change of each file that the rows come from")
    computed_in: str = key(help="precision of the computation")
    exact_decode: bool = key(help="whether large JPEGs were decoded in full")


@dataclass(frozen=True, kw_only=True)
class EncoderParams(ModelParams):
    """A captioner whose image encoder is meant, or an image encoder by itself."""

    image_encoder_type: str | None = key(
        None, help="in place of model_path, an image encoder by itself: ViT-B/32, RN50, a hub id, a local file, ..."
    )
    output_grid: bool | None = key(None, help="that encoder gives a grid (True or None) or one pooled row (False)")
    input_resolution: int | None = key(None, minimum=1, help="side of the image that it sees; None: its own")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A captioner or an encoder has to be said, as (keys concerned, message)."""
        if self.model_path is not None or self.model_name is not None:
            yield from super().check()
            return
        if self.image_encoder_type is None:
            yield (
                ("model_path", "image_encoder_type"),
                "missing key 'model_path' (a captioner whose image encoder is meant) or 'image_encoder_type' (an image "
                "encoder by its name)",
            )
        for name in ("language_model", "mapping_type", "test_crop_size", "test_respect_ratio_max"):
            if getattr(self, name) is not None:
                yield (name,), f"'{name}': goes with 'model_path', and 'image_encoder_type' names an encoder alone"


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Keys of `extract_features`."""

    image_tsv: str | None = key(
        None,
        help="image TSV: key, base64 of an image file; or tars as shards/{00000..00012}.tar, Parquet, JSONL of paths",
        kind="images",
        example="data/shapes/test.img.tsv",
    )
    data: str | None = key(
        None,
        help="in place of image_tsv, what to train on: a file, a folder, tars, or a data set on the hub",
        kind="data",
    )
    split: str | None = key(None, help="split of the data; None: train where there is one, else the only one")
    image_column: str | None = key(None, help="column of a table that names images; None: found by name")
    caption_column: str | None = key(None, help="column of a table that holds captions; None: found by name")
    out: str = key(help="feature cache to write", kind="output_file", example="inference/example/test.features")
    what: What = key("features", help="what the image encoder gives, or the prefix that the captioner's mapper makes")
    stored_as: StoredAs = key("float16", help="precision of the numbers in the file")
    model: EncoderParams = group(EncoderParams, "model")
    running: RunningParams = group(RunningParams, "running")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Images said once, and a captioner for a prefix, as (keys concerned, message)."""
        if (self.image_tsv is None) == (self.data is None):
            yield ("image_tsv", "data"), "expected 'image_tsv' or 'data', one of the two"
        for name in ("split", "image_column", "caption_column"):
            if getattr(self, name) is not None and self.data is None:
                yield (name, "data"), f"'{name}': goes with 'data'"
        if self.model.model_path is not None or self.model.model_name is not None:
            return
        if self.what == "prefix":
            yield ("what", "model_path"), "'what': a prefix is made by a captioner's mapper: give its 'model_path'"
        for name in ("quantization", "device_map"):
            if getattr(self.running, name) is not None:
                yield (name, "model_path"), f"'{name}': is of a captioner's language model; leave it out"
