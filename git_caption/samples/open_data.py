"""Which format a data set is in, by what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, UsageError
from git_caption.params.paths import is_hub_id
from git_caption.params.tsv_names import CAPTIONS, IMAGES, QUESTIONS
from git_caption.samples import cc3m, coco, flickr, hub_dataset, table, vqa, webdataset
from git_caption.samples.splits import choose, refuse
from git_caption.samples.training_data import TrainingData
from git_caption.samples.training_tsv import TrainingTsv
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_question_row

LOOKED_FOR = (
    "NAME.img.tsv beside NAME.caption.tsv or NAME.question.tsv",
    "CC3M (Train_GCC-training.tsv)",
    "COCO (annotations/captions_*.json, annotations/train_caption.json, dataset_*.json)",
    "VQA (v2_OpenEnded_mscoco_*_questions.json)",
    "Flickr (Flickr8k.token.txt, results_20130124.token)",
    "a data set of Hugging Face (dataset_dict.json, or state.json and dataset_info.json)",
    "webdataset (*.tar)",
    "one table (*.csv, *.jsonl, *.json, captions.txt)",
)
WITH_COLUMNS = ("CSV", "JSONL", "JSON list", "Hugging Face")  # the kinds whose columns can be told
TABLES = (".csv", ".jsonl", ".json")
KINDS = {  # by format: what its data sets call themselves
    "CC3M": ("CC3M",),
    "COCO": ("COCO", "Karpathy", "ClipCap"),
    "Flickr": ("Flickr", "Karpathy", "CSV"),  # as its authors gave it, Karpathy's, Kaggle's
    "JSON": ("JSON",),
}


KARPATHY = {"COCO": "dataset_coco.json", "Flickr": "dataset_flickr8k.json"}


@dataclass(frozen=True)
class Choices:
    """What is chosen of a data set; None leaves it to the format: `train` where there are splits, known columns.

    only: the format that it has to be in.
    """

    split: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    only: str | None = None


def open_data(
    path: str | Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    only: str | None = None,
) -> TrainingData:
    """The data set at `path`: a file, a folder, tars as `{00000..00012}.tar`, or the id of a repository on the hub.

    only: the format that it has to be in, of `KINDS`; others in the same folder are passed over.
    Raises UsageError if no format is found, or more than one, or what is chosen is not there; DataError as the formats
    do.
    """
    data = _opened(path, Choices(split, image_column, caption_column, only))
    if only is not None and not data.kind.startswith(KINDS[only]):
        raise UsageError(f"{path}: {data.kind}, expected {only}")
    if (image_column or caption_column) and not data.kind.startswith(WITH_COLUMNS):
        raise UsageError(f"{path}: {data.kind}: no columns to choose from; leave 'image_column', 'caption_column' out")
    return data


def _opened(path: str | Path, chosen: Choices) -> TrainingData:
    place = Path(path)
    if place.is_dir():
        return _in_folder(place, chosen)
    if str(path).endswith(".tar"):
        refuse(chosen.split, webdataset.WebDataset.kind, str(path))
        return webdataset.WebDataset(webdataset.tars_of(str(path)))
    if place.is_file():
        return _in_file(place, chosen)
    if chosen.only is None and isinstance(path, str) and path.count("/") == 1 and is_hub_id(path):
        return hub_dataset.HubDataset(path, chosen.split, chosen.image_column, chosen.caption_column)
    raise UsageError(f"{path}: no such file or folder, nor the id of a repository on the hub (owner/name)")


def _in_file(path: Path, chosen: Choices) -> TrainingData:
    columns = (chosen.image_column, chosen.caption_column)
    if path.name in cc3m.TABLES.values():
        own = next(name for name, table_name in cc3m.TABLES.items() if table_name == path.name)
        return cc3m.Cc3m(path.parent, chosen.split or own)
    if path.name in flickr.CAPTIONS:
        return flickr.read_flickr(path, chosen.split)
    if path.name.endswith(IMAGES):
        refuse(chosen.split, "an image TSV", str(path))
        return _tsv(path)
    match path.suffix.lower():
        case ".json":
            return _json(path, table.load_json(path), chosen)
        case ".jsonl" | ".ndjson":
            return table.read_jsonl(path, chosen.split, *columns)
        case ".csv" | ".tsv" | ".txt":
            return table.read_csv(path, chosen.split, *columns)
    raise UsageError(f"{path}: not a known format; expected {IMAGES}, .csv, .jsonl, .json, .tar or a folder")


def _json(path: Path, document: Any, chosen: Choices) -> TrainingData:
    if coco.is_karpathy(document):
        return coco.read_karpathy(path, document, chosen.split)
    if coco.is_annotations(document):
        return coco.read_annotations(path, document, chosen.split)
    if coco.is_clipcap(document) and chosen.image_column is None:
        return coco.read_clipcap(path, document, chosen.split)
    if vqa.is_questions(document) or vqa.is_answers(document):
        refuse(chosen.split, "a file of VQA", str(path))
        return vqa.read_answered(path, document)
    if isinstance(document, list):
        return table.read_json_list(path, document, chosen.split, chosen.image_column, chosen.caption_column)
    raise DataError(
        f'{path}: a JSON {type(document).__name__} that is no data set; expected a list of {{"image", "text"}}, '
        "annotations of COCO, Karpathy's splits or questions of VQA"
    )


def _in_folder(folder: Path, chosen: Choices) -> TrainingData:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    every = [_tsvs, _cc3m, _coco, _questions, _flickr, _saved, _tars]
    finders = every if chosen.only is None else FINDERS.get(chosen.only, [])
    found = [opened for finder in finders if (opened := finder(folder, names, chosen)) is not None]
    if len(found) > 1:
        raise UsageError(
            f"{folder}: more than one data set in it ({'; '.join(title for title, _ in found)}): name the file of one, "
            "or of each with commas between"
        )
    if found:
        return found[0][1]()
    tables = [folder / name for name in names if name.endswith(TABLES) or name == "captions.txt"]
    if not tables:
        raise UsageError(f"{folder}: no data set in it; looked for {'; '.join(LOOKED_FOR)}")
    return _in_file(_only(tables, chosen.only), chosen)


Found = tuple[str, Callable[[], TrainingData]]  # what is there, and how it is opened


def _tsvs(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    pairs = [
        name.removesuffix(IMAGES)
        for name in names
        if name.endswith(IMAGES) and any(name.removesuffix(IMAGES) + kind in names for kind in (CAPTIONS, QUESTIONS))
    ]
    if not pairs:
        return None
    return f"{pairs[0]}{IMAGES}", lambda: _tsv(folder / (choose(pairs, chosen.split, str(folder)) + IMAGES))


def _tsv(images: Path) -> TrainingTsv:
    """An image TSV with the captions beside it; the questions too where they have answers to train on."""
    captions, questions = (images.with_name(images.name.removesuffix(IMAGES) + kind) for kind in (CAPTIONS, QUESTIONS))
    answered = questions if _answered(questions) else None
    if captions.is_file():
        return TrainingTsv(images, captions, answered)
    if answered is None:
        raise UsageError(f"{images}: no captions beside it, expected {captions.name}, or {questions.name} with answers")
    return TrainingTsv(images, None, answered)


def _answered(questions: Path) -> bool:
    """Whether the first question has an answer: those of a test split have none."""
    if not questions.is_file():
        return False
    with TsvFile(questions) as rows:
        for row in range(len(rows)):
            if asked := parse_question_row(rows.columns(row), rows.where(row)).questions:
                return bool(asked[0].answers)
    return False


def _cc3m(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    there = [name for name in cc3m.TABLES.values() if name in names]
    return (there[0], lambda: cc3m.Cc3m(folder, chosen.split)) if there else None


def _coco(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    """Annotations by split; Karpathy's file where its splits are asked for, or where it is alone."""
    patterns = ("annotations/captions_*.json", "captions_*.json", "annotations/train_caption.json")
    files = {path.stem.removeprefix("captions_"): path for pattern in patterns for path in folder.glob(pattern)}
    karpathy = [path for pattern in ("dataset_*.json", "annotations/dataset_*.json") for path in folder.glob(pattern)]
    karpathy = [path for path in karpathy if path.name not in hub_dataset.FILES]
    if not files and not karpathy:
        return None

    def opened() -> TrainingData:
        if karpathy and chosen.split not in files:
            if files and chosen.split is None:
                raise UsageError(
                    f"{folder}: {karpathy[0].name} and {', '.join(sorted(path.name for path in files.values()))} are "
                    "there: name the file of one, or a split as 'train+restval' or 'train2017'"
                )
            return _in_file(_only(karpathy, chosen.only), chosen)
        return _in_file(files[choose(files, chosen.split, str(folder))], Choices())

    return "COCO", opened


def _questions(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    files = vqa.questions_in(folder)

    def opened() -> TrainingData:
        return _in_file(files[choose(files, chosen.split, str(folder))], Choices())

    return (str(next(iter(files.values())).relative_to(folder)), opened) if files else None


def _flickr(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    places = [folder / name for name in flickr.CAPTIONS] + [folder / flickr.TEXTS / name for name in flickr.CAPTIONS]
    there = [path for path in places if path.is_file()]
    return (there[0].name, lambda: flickr.read_flickr(there[0], chosen.split)) if there else None


def _saved(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    if not hub_dataset.is_saved(folder):
        return None
    opened = hub_dataset.HubDataset
    return "a data set of Hugging Face", lambda: opened(
        folder, chosen.split, chosen.image_column, chosen.caption_column
    )


def _tars(folder: Path, names: list[str], chosen: Choices) -> Found | None:
    tars = [folder / name for name in names if name.endswith(".tar")]

    def opened() -> TrainingData:
        refuse(chosen.split, webdataset.WebDataset.kind, str(folder))
        return webdataset.WebDataset(tars)

    return (tars[0].name, opened) if tars else None


FINDERS = {"CC3M": [_cc3m], "COCO": [_coco], "Flickr": [_flickr]}


def _only(paths: list[Path], wanted: str | None) -> Path:
    """The only path; of several Karpathy's file of the wanted format, of which he has three in one archive."""
    if len(paths) > 1:
        own = [path for path in paths if path.name == KARPATHY.get(wanted or "")]
        if own:
            return own[0]
        raise UsageError(
            f"{paths[0].parent}: {len(paths)} files may be it ({', '.join(path.name for path in paths[:5])}): name one"
        )
    return paths[0]
