"""The jobs that make TSVs of data sets: one writer, and for each data set how it is opened."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.jobs import rows
from git_caption.params import prepare, tsv_names
from git_caption.params.rows import RowsParams
from git_caption.params.schema import to_dict
from git_caption.pipeline.chunks import IMAGE_CHUNK_ROWS
from git_caption.pipeline.tsv_set_parts import TsvSetParts
from git_caption.samples import coco, table
from git_caption.samples.cc3m import Cc3m
from git_caption.samples.flickr import image_folders
from git_caption.samples.image_folder import ImageFolder
from git_caption.samples.image_list import ImageList
from git_caption.samples.nice import read_nice
from git_caption.samples.open_data import open_data
from git_caption.samples.parquet_data import ParquetData, parquet_files
from git_caption.samples.prepared import PreparedRows, columns_of, has_images
from git_caption.samples.training_data import Column, TrainingData
from git_caption.samples.vqa import VqaQuestions, read_split


def cc3m(params: prepare.Cc3mParams) -> None:
    """Conceptual Captions with the images that could be downloaded."""
    write(params, lambda: open_data(params.data, split=params.split, only="CC3M"))


def coco_captions(params: prepare.CocoPrepareParams) -> None:
    """A split of COCO, of its own or of Karpathy's."""
    write(params, lambda: _coco(Path(params.data), params.split))


def coco_test(params: prepare.CocoTestParams) -> None:
    """Karpathy's test split, as the GIT tool prepares it."""
    data = Path(params.data)
    file = data / "dataset_coco.json" if data.is_dir() else data
    if not file.is_file():
        raise UsageError(f"{data}: no dataset_coco.json, which has Karpathy's splits")
    write(params, lambda: open_data(file, split="test", only="COCO"))


def vqav2(params: prepare.VqaV2Params) -> None:
    """A split of VQAv2: images and questions, with answers where there are any."""
    write(params, lambda: read_split(Path(params.data), params.split))


def nice(params: prepare.NiceParams) -> None:
    """A split of NICE."""
    write(params, lambda: read_nice(Path(params.data)))


def instagram(params: prepare.InstagramParams) -> None:
    """A data set of Hugging Face, Parquet files, or a table."""
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}

    def opened() -> TrainingData:
        if files := parquet_files(Path(params.data), params.split):
            return ParquetData(files, **columns)
        return open_data(params.data, split=params.split, **columns)

    write(params, opened)


def folder(params: prepare.FolderParams) -> None:
    """A folder of images."""
    write(params, lambda: ImageFolder(Path(params.data)))


def json_list(params: prepare.JsonParams) -> None:
    """A JSON list of images and captions, or JSONL."""
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}
    write(params, lambda: open_data(params.data, split=params.split, **columns, only="JSON"))


def flickr8k(params: prepare.Flickr8kParams) -> None:
    """A split of Flickr8k, as its authors, Karpathy or Kaggle have it."""

    def opened() -> TrainingData:
        data = open_data(params.data, split=params.split, only="Flickr")
        assert isinstance(data, ImageList), "all of them are"
        data.folders = image_folders(data.inputs[0])
        return data

    write(params, opened)


def write(params: Any, opened: Callable[[], TrainingData]) -> None:
    """Write the TSVs of a data set and print what came of it. Raises as `rows.write`."""
    with processes.rank_0_first():  # it writes the index of a TSV
        data = opened()
    image_dir = getattr(params, "image_dir", None)
    if image_dir:
        assert isinstance(data, ImageList | VqaQuestions), "the only ones with that key"
        data.folders = (Path(image_dir), *data.folders)
    chosen = params.preparing
    images = has_images(data) if chosen.images is None else chosen.images
    columns: tuple[Column, ...] = (*(("images",) if images else ()), *columns_of(data))
    if not columns and chosen.images is False:
        raise UsageError(f"{params.data}: no texts are there, and 'images': False leaves the images out")
    if not columns:
        raise UsageError(f"{params.data}: neither images nor texts are there; {_looked(data)}")
    if chosen.images is None and not images:
        if image_dir:
            raise UsageError(f"'image_dir': no image is there that {params.data} names; {_looked(data)}")
        if processes.rank() == 0:
            print(f"no image is there ({_looked(data)}): writing {' and '.join(columns)} alone", file=sys.stderr)
    settings = {
        "prepared": {name: value for name, value in to_dict(params).items() if name not in to_dict(params.rows)},
        "columns": columns,
        "rows": listing(data),
    }
    write_rows(PreparedRows(data, columns, chosen.verify), params.written, settings, params.rows)
    if data.missing and processes.rank() == 0:
        print(f"{data.missing} rows without an image were passed over")


def write_rows(source: PreparedRows, out_tsv: str, settings: Mapping[str, Any], running: RowsParams) -> None:
    """Write what rows give into an image TSV and its companions, and print what came of it."""
    names = {
        "images": out_tsv,
        "captions": tsv_names.caption_tsv(out_tsv),
        "questions": tsv_names.question_tsv(out_tsv, "captions" in source.columns),
    }
    files = tuple(Path(names[column]) for column in source.columns)
    form = TsvSetParts(files)
    rows.write(source, form, out_tsv, settings, running, chunk_rows=IMAGE_CHUNK_ROWS, files=lambda: files)


def listing(data: TrainingData) -> str | None:
    """What tells which rows there are, where no input file does: a digest of the keys."""
    if not isinstance(data, Cc3m | ImageFolder):
        return None
    digest = hashlib.sha256()
    for row in range(len(data)):
        digest.update(data.key(row).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _coco(path: Path, split: str | None) -> TrainingData:
    info = coco.image_info(path, split) if path.is_dir() else path if path.name.startswith("image_info_") else None
    if info is not None:
        return coco.read_image_info(info, table.load_json(info))
    return open_data(path, split=split, only="COCO")


def _looked(data: TrainingData) -> str:
    """Where images were looked for."""
    folders = getattr(data, "folders", ())
    return f"looked in {', '.join(map(str, folders))}" if folders else f"looked for what the {data.kind} names"
