"""The jobs that store TSVs in other formats, and bring them back to the byte."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.jobs.prepare import write_rows
from git_caption.jobs.rows import opened, write
from git_caption.params.rows import RowsParams
from git_caption.params.tsv_names import CAPTIONS, QUESTIONS
from git_caption.params.tsv_tools import FromParquetParams, FromWebDatasetParams, ToParquetParams, ToWebDatasetParams
from git_caption.pipeline.chunks import PartFormat, chunk_rows_of
from git_caption.pipeline.parquet_parts import ImageParquetParts
from git_caption.pipeline.tar_parts import TarParts, tars_of_name
from git_caption.samples.parquet_data import ParquetData
from git_caption.samples.prepared import PreparedRows, columns_of
from git_caption.samples.stored_rows import StoredRows
from git_caption.samples.training_data import TrainingData
from git_caption.samples.tsv_set import TsvSet
from git_caption.samples.webdataset import WebDataset, tars_of


def tsv_to_webdataset(params: ToWebDatasetParams) -> None:
    """An image TSV with its companions as tars."""
    rows = opened(params.tsv)
    form, settings = TarParts(params.rows_per_tar), {"rows_per_tar": params.rows_per_tar}
    _store(rows, form, params.out_tar, settings, params.rows, lambda: tuple(tars_of_name(Path(params.out_tar))))


def webdataset_to_tsv(params: FromWebDatasetParams) -> None:
    """Tars as an image TSV with its companions."""
    with processes.rank_0_first():  # it writes the index of a tar
        data = WebDataset(tars_of(_all_of(params.tars, "*.tar")))
    _bring(data, params.out_tsv, params.rows)


def tsv_to_parquet(params: ToParquetParams) -> None:
    """An image TSV with its companions as a Parquet file."""
    rows = opened(params.tsv)
    form = ImageParquetParts(CAPTIONS in rows.endings, QUESTIONS in rows.endings)
    _store(rows, form, params.out_parquet, {}, params.rows, lambda: (Path(params.out_parquet),))


def parquet_to_tsv(params: FromParquetParams) -> None:
    """Parquet files as an image TSV with its companions."""
    data = ParquetData(tars_of(_all_of(params.parquet, "*.parquet"), "Parquet files"))
    _bring(data, params.out_tsv, params.rows)


def _all_of(path: str, pattern: str) -> str:
    return os.path.join(glob.escape(path), pattern) if os.path.isdir(path) else path


def _store(
    rows: TsvSet,
    form: PartFormat,
    out: str,
    settings: Mapping[str, Any],
    running: RowsParams,
    files: Callable[[], tuple[Path, ...]],
) -> None:
    chunk_rows = chunk_rows_of(rows.size, len(rows))
    write(StoredRows(rows), form, out, settings, running, chunk_rows=chunk_rows, files=files)


def _bring(data: TrainingData, out_tsv: str, running: RowsParams) -> None:
    columns = ("images", *columns_of(data))
    write_rows(PreparedRows(data, columns, verify=False), out_tsv, {"columns": columns}, running)
