"""Parameters of the jobs on TSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.packages import missing_for
from git_caption.params.rows import Fault, RowsParams, TsvWritingParams
from git_caption.params.schema import group, key

IN = "TSV to read; NAME.caption.tsv and NAME.question.tsv beside NAME.img.tsv go along, row by row"
OUT = "TSV to write, with its companions beside it"
IMAGES = "data/shapes/test.img.tsv"


@dataclass(frozen=True, kw_only=True)
class InfoParams:
    """Keys of `tsv_info`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_json: str | None = key(None, help="JSON to write with what was found", kind="output_file")


@dataclass(frozen=True, kw_only=True)
class ShuffleParams(TsvWritingParams):
    """Keys of `tsv_shuffle`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_tsv: str = key(help=OUT, kind="output_file", example="inference/example/shuffled.img.tsv")
    seed: int = key(0, minimum=0, maximum=2**32 - 1, help="seed of the order")


@dataclass(frozen=True, kw_only=True)
class SplitParams(TsvWritingParams):
    """Keys of `tsv_split`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_tsvs: tuple[str, ...] = key(
        help="TSVs to write, in the order of the rows, with their companions beside them",
        kind="output_file",
        example=["inference/example/first.img.tsv", "inference/example/rest.img.tsv"],
    )
    sizes: tuple[float | None, ...] | None = key(
        None,
        help="rows of each: a number, a fraction below 1, or once None for the rest; None: as equal as can be",
        example=[100, None],
    )

    def check(self) -> Iterator[Fault]:
        """Names that are none of a TSV, or of one that is read; sizes that do not fit."""
        yield from super().check()
        if self.sizes is None:
            return
        if len(self.sizes) != len(self.out_tsvs):
            yield ("sizes", "out_tsvs"), f"'sizes': {len(self.sizes)} sizes for {len(self.out_tsvs)} TSVs"
        if self.sizes.count(None) > 1:
            yield ("sizes",), "'sizes': None, the rest, comes more than once"
        for size in self.sizes:
            if size is not None and (size < 0 or (size > 1 and size != int(size))):
                yield ("sizes",), f"'sizes': expected a number of rows or a fraction below 1, found {size:g}"


@dataclass(frozen=True, kw_only=True)
class MergeParams(TsvWritingParams):
    """Keys of `tsv_merge`."""

    tsvs: tuple[str, ...] = key(
        help="TSVs to read one after the other; companions go along, and all or none have them",
        kind="input_file",
        example=[IMAGES, IMAGES],
    )
    out_tsv: str = key(help=OUT, kind="output_file", example="inference/example/merged.img.tsv")


@dataclass(frozen=True, kw_only=True)
class FilterParams(TsvWritingParams):
    """Keys of `tsv_filter`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_tsv: str = key(help=OUT, kind="output_file", example="inference/example/filtered.img.tsv")
    score: str = key("mean_logprob", help="what min_score and max_score bound: a number beside each caption's text")
    min_score: float | None = key(None, help="captions of a lower score are dropped")
    max_score: float | None = key(None, help="captions of a higher score are dropped")
    min_words: int | None = key(None, minimum=0, help="captions of fewer words are dropped", example=12)
    max_words: int | None = key(None, minimum=0, help="captions of more words are dropped")
    match: str | None = key(None, help="regular expression: captions in which it is not found are dropped")
    no_match: str | None = key(None, help="regular expression: captions in which it is found are dropped")
    unique: Literal["key", "image", "caption"] | None = key(
        None, help="drop what came before: rows of the same key or the same image file, or captions of the same text"
    )

    def check(self) -> Iterator[Fault]:
        """A name that is none of a TSV, or of one that is read; expressions that are none; nothing asked for."""
        yield from super().check()
        for name in ("match", "no_match"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                yield (name,), f"{name!r}: not a regular expression: {error}"
        if not self.judges_captions and self.unique is None:
            yield ("unique",), "nothing to filter by: give a bound on score or words, 'match', 'no_match' or 'unique'"

    @property
    def judges_captions(self) -> bool:
        """Whether captions are looked at one by one."""
        given = (self.min_score, self.max_score, self.min_words, self.max_words, self.match, self.no_match)
        return any(value is not None for value in given) or self.unique == "caption"


@dataclass(frozen=True, kw_only=True)
class ToWebDatasetParams:
    """Keys of `tsv_to_webdataset`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_tar: str = key(
        help="name of the tars: NAME.tar becomes NAME-00000.tar, NAME-00001.tar, ...",
        kind="output_file",
        example="inference/example/shapes.tar",
    )
    rows_per_tar: int = key(10_000, minimum=1, help="rows of each tar but the last", example=200)
    rows: RowsParams = group(RowsParams, "rows")

    @property
    def also_written(self) -> tuple[str, ...]:
        """The first tar, which there always is."""
        return (f"{self.out_tar.removesuffix('.tar')}-00000.tar",)

    def check(self) -> Iterator[Fault]:
        """A name that is none of a tar."""
        if not self.out_tar.endswith(".tar"):
            yield ("out_tar",), f"'out_tar': expected the name of a tar, as shards/train.tar, found {self.out_tar!r}"


@dataclass(frozen=True, kw_only=True)
class FromWebDatasetParams(TsvWritingParams):
    """Keys of `webdataset_to_tsv`."""

    tars: str = key(
        help="tars to read: one, a folder of them, shards/{00000..00012}.tar or shards/*.tar",
        kind="images",
        example="inference/example/shapes-{00000..00002}.tar",
    )
    out_tsv: str = key(help=OUT, kind="output_file", example="inference/example/untarred.img.tsv")


@dataclass(frozen=True, kw_only=True)
class ToParquetParams:
    """Keys of `tsv_to_parquet`."""

    tsv: str = key(help=IN, kind="input_file", example=IMAGES)
    out_parquet: str = key(help="Parquet file to write", kind="output_file", example="inference/example/shapes.parquet")
    rows: RowsParams = group(RowsParams, "rows")

    def check(self) -> Iterator[Fault]:
        """A name that is none of a Parquet file, or no package to write one."""
        if not self.out_parquet.endswith(".parquet"):
            yield ("out_parquet",), f"'out_parquet': expected a name that ends in .parquet, found {self.out_parquet!r}"
        elif message := missing_for(self.out_parquet):
            yield ("out_parquet",), f"'out_parquet': {message}"


@dataclass(frozen=True, kw_only=True)
class FromParquetParams(TsvWritingParams):
    """Keys of `parquet_to_tsv`."""

    parquet: str = key(
        help="Parquet file to read, a folder of them, or data/*.parquet",
        kind="images",
        example="inference/example/shapes.parquet",
    )
    out_tsv: str = key(help=OUT, kind="output_file", example="inference/example/from_parquet.img.tsv")
