"""The jobs that store TSVs in other formats, and bring them back to the byte."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.jobs.prepare import some_written, told, write_rows
from git_caption.jobs.tsv_tools import opened
from git_caption.params.rows import RowsParams
from git_caption.params.tsv_names import CAPTIONS, QUESTIONS
from git_caption.params.tsv_tools import FromParquetParams, FromWebDatasetParams, ToParquetParams, ToWebDatasetParams
from git_caption.pipeline.chunks import PartFormat, chunk_rows_of
from git_caption.pipeline.parquet_parts import ImageParquetParts
from git_caption.pipeline.run import Summary, run
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
    out = Path(params.out_tar)
    settings = {"rows_per_tar": params.rows_per_tar}
    summary = _store(rows, TarParts(params.rows_per_tar), out, settings, params.rows)
    if processes.rank() == 0:
        told(summary, tuple(tars_of_name(out)))
    some_written(summary, params.tsv)


def webdataset_to_tsv(params: FromWebDatasetParams) -> None:
    """Tars as an image TSV with its companions."""
    with processes.rank_0_first():  # it writes the index of a tar
        data = WebDataset(tars_of(_all_of(params.tars, "*.tar")))
    _bring(data, params.tars, params.out_tsv, params.rows)


def tsv_to_parquet(params: ToParquetParams) -> None:
    """An image TSV with its companions as a Parquet file."""
    rows = opened(params.tsv)
    form = ImageParquetParts(CAPTIONS in rows.endings, QUESTIONS in rows.endings)
    summary = _store(rows, form, Path(params.out_parquet), {}, params.rows)
    if processes.rank() == 0:
        told(summary, (Path(params.out_parquet),))
    some_written(summary, params.tsv)


def parquet_to_tsv(params: FromParquetParams) -> None:
    """Parquet files as an image TSV with its companions."""
    data = ParquetData(tars_of(_all_of(params.parquet, "*.parquet"), "Parquet files"))
    _bring(data, params.parquet, params.out_tsv, params.rows)


def _all_of(path: str, pattern: str) -> str:
    return os.path.join(glob.escape(path), pattern) if os.path.isdir(path) else path


def _store(rows: TsvSet, form: PartFormat, out: Path, settings: Mapping[str, Any], running: RowsParams) -> Summary:
    return run(
        StoredRows(rows),
        lambda stored: stored,
        out,
        settings,
        form=form,
        num_workers=running.workers,
        on_error=running.on_error,
        max_errors=running.max_errors,
        resume=running.resume,
        chunk_rows=chunk_rows_of(rows.size, len(rows)),
    )


def _bring(data: TrainingData, source: str, out_tsv: str, running: RowsParams) -> None:
    columns = ("images", *columns_of(data))
    some_written(write_rows(PreparedRows(data, columns, verify=False), out_tsv, {"columns": columns}, running), source)
