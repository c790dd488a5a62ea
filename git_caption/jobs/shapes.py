"""The embedded example: its data made anew, and its captioner scored beside the baselines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from git_caption.errors import DataError, JobFailed
from git_caption.jobs import infer
from git_caption.metrics.coco import score
from git_caption.metrics.vqa import exact_match_accuracy
from git_caption.params.infer import ModelParams, SingleTsvParams
from git_caption.params.shapes import ShapesDataParams, ShapesScoreParams
from git_caption.shapes.baselines import best_constant_answers, best_constant_caption
from git_caption.shapes.parser import attribute_accuracy
from git_caption.shapes.questions import Asked, template_of
from git_caption.shapes.scenes import MAX_OBJECTS, Scene, scene_from_json, scene_to_json
from git_caption.shapes.split import Example, Splits
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import (
    CaptionRow,
    ImageRow,
    Question,
    QuestionRow,
    dumps,
    parse_answer_row,
    parse_caption_row,
    parse_question_row,
)
from git_caption.tsv.writer import TsvWriter, encode, write_atomically

SPLIT = "split.json"
COLUMNS = ("captioner", "shuffled images", "no image")


def make(params: ShapesDataParams) -> None:
    """Write both splits as TSVs: pictures, captions, questions (the train split's with answers) and scenes."""
    splits = Splits(params.seed, params.train, params.test, params.max_objects)
    folder = Path(params.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, "test", splits.test_examples(), params.test, with_answers=False)
    _write(folder, "train", splits.train_examples(), params.train, with_answers=True)
    write_atomically(folder / SPLIT, (json.dumps(asdict(splits), indent=2) + "\n").encode())
    print(f"{folder}: {params.test} test and {params.train} train scenes")


def evaluate(params: ShapesScoreParams) -> None:
    """Caption and answer the test split, and print each score beside its baselines, and the paths written."""
    data, out = Path(params.data_dir), Path(params.out_dir)
    splits = _read_splits(data / SPLIT)
    truth = _read_truth(data)
    out.mkdir(parents=True, exist_ok=True)
    shuffled = out / "shuffled.img.tsv"
    _shift(data / "test.img.tsv", shuffled)
    captions = _captions(params, data / "test.img.tsv", out / "captions.tsv")
    answers = _answers(params, data / "test.img.tsv", out / "answers.tsv")
    blind_captions = _captions(params, shuffled, out / "shuffled.captions.tsv")
    blind_answers = _answers(params, shuffled, out / "shuffled.answers.tsv")
    train = list(splits.train_examples())
    constant_caption = best_constant_caption([example.scene for example in train])
    by_template = best_constant_answers(item for example in train for item in example.questions())
    constant_answers = {number: by_template.get(template_of(a.question), "") for number, a in truth.asked.items()}

    told = (captions, blind_captions, [constant_caption] * len(truth.keys))
    table = {
        "attribute accuracy": [100 * _attribute_accuracy(texts, truth) for texts in told],
        "VQA accuracy": [100 * _vqa_accuracy(a, truth) for a in (answers, blind_answers, constant_answers)],
        "CIDEr": [100 * _cider(texts, truth) for texts in told],
    }
    scores = {name: dict(zip(COLUMNS, values, strict=True)) for name, values in table.items()}
    write_atomically(out / "scores.json", (json.dumps(scores, indent=2) + "\n").encode())
    print(f"\n{len(truth.keys)} scenes, {len(truth.asked)} questions; CIDEr x 100, tokenizer: python")
    print(_printed(table))
    print(f"captions: {out / 'captions.tsv'}\nanswers:  {out / 'answers.tsv'}\nscores:   {out / 'scores.json'}")


@dataclass(frozen=True)
class Truth:
    """What is known of the test split: rows in order, questions by id."""

    keys: list[str]
    scenes: list[Scene]
    captions: dict[str, list[str]]
    asked: dict[int | str, Asked]


def _write(folder: Path, name: str, examples: Iterable[Example], count: int, *, with_answers: bool) -> None:
    with (
        TsvWriter(folder / f"{name}.img.tsv") as images,
        TsvWriter(folder / f"{name}.caption.tsv") as captions,
        TsvWriter(folder / f"{name}.question.tsv") as questions,
        TsvWriter(folder / f"{name}.scene.tsv") as scenes,
    ):
        number = 0
        for example in tqdm(examples, total=count, unit="scene", desc=name, disable=not sys.stderr.isatty()):
            asked = dict(enumerate(example.questions(), start=number))
            number += len(asked)
            rows = [Question(i, a.question, (a.answer,) if with_answers else ()) for i, a in asked.items()]
            truth = {
                "objects": scene_to_json(example.scene),
                "answers": {str(i): item.answer for i, item in asked.items()},
            }
            images.write(ImageRow(example.key, example.picture()).columns())
            captions.write(CaptionRow(example.key, tuple(example.captions())).columns())
            questions.write(QuestionRow(example.key, tuple(rows)).columns())
            scenes.write([example.key, dumps(truth)])


def _captions(params: ShapesScoreParams, image_tsv: Path, out: Path) -> list[str]:
    _infer(params, image_tsv, None, out)
    with TsvFile(out) as rows:
        return [parse_caption_row(columns, rows.where(row)).captions[0] for row, columns in enumerate(rows)]


def _answers(params: ShapesScoreParams, image_tsv: Path, out: Path) -> dict[int | str, str]:
    _infer(params, image_tsv, Path(params.data_dir) / "test.question.tsv", out)
    with TsvFile(out) as rows:
        found = [parse_answer_row(columns, rows.where(row)) for row, columns in enumerate(rows)]
    return {answer.question_id: answer.answer for answer in found}


def _infer(params: ShapesScoreParams, image_tsv: Path, question_tsv: Path | None, out: Path) -> None:
    infer.single_tsv(
        SingleTsvParams(
            image_tsv=str(image_tsv),
            question_tsv=None if question_tsv is None else str(question_tsv),
            out_tsv=str(out),
            model=ModelParams(model_path=params.model_path),
            decoding=params.decoding,
            running=params.running,
        )
    )


def _shift(image_tsv: Path, out: Path) -> None:
    """Give each row the picture of the row before it: every row a wrong one, each picture once.

    A file that holds these rows already is left as it is: its date is part of what a stopped run goes on from.
    """
    with TsvFile(image_tsv) as rows:

        def shifted() -> Iterator[bytes]:
            for row in range(len(rows)):
                yield encode([rows.columns(row)[0], *rows.columns((row - 1) % len(rows))[1:]], rows.where(row))

        if not _holds(out, shifted()):
            with TsvWriter(out) as writer:
                for line in shifted():
                    writer.write_encoded(line)


def _holds(path: Path, lines: Iterator[bytes]) -> bool:
    """Whether a file is there and consists of these lines."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return all(there == line for there, line in zip_longest(file, lines))


def _read_splits(path: Path) -> Splits:
    try:
        splits = Splits(**json.loads(path.read_text(encoding="utf-8")))
        if splits.train < 1 or splits.test < 1:
            raise ValueError(f"{splits.train} train and {splits.test} test scenes, expected at least one of each")
        if not 1 <= splits.max_objects <= MAX_OBJECTS:
            raise ValueError(f"at most {splits.max_objects} objects a scene, expected 1 to {MAX_OBJECTS}")
        return splits
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not readable as the seed and sizes of the splits: {error}; see make_shapes"
        ) from error


def _read_truth(data: Path) -> Truth:
    keys, scenes, captions, asked = [], [], {}, {}
    with (
        TsvFile(data / "test.scene.tsv") as scene_rows,
        TsvFile(data / "test.img.tsv") as image_rows,
        TsvFile(data / "test.caption.tsv") as caption_rows,
        TsvFile(data / "test.question.tsv") as question_rows,
    ):
        for other in (image_rows, caption_rows, question_rows):
            if len(other) != len(scene_rows):
                raise DataError(
                    f"{scene_rows.path} has {len(scene_rows)} rows and {other.path} has {len(other)}; expected a row "
                    "for each scene; see make_shapes"
                )
        for row in range(len(scene_rows)):
            where = scene_rows.where(row)
            key, truth = _parse_scene(scene_rows.columns(row), where)
            keys.append(key)
            scenes.append(scene_from_json(truth["objects"], where))
            captions[key] = list(parse_caption_row(caption_rows.columns(row), caption_rows.where(row)).captions)
            for item in parse_question_row(question_rows.columns(row), question_rows.where(row)).questions:
                if str(item.question_id) not in truth["answers"]:
                    raise DataError(f"{where}: no answer to question {item.question_id}; see make_shapes")
                asked[item.question_id] = Asked(item.question, truth["answers"][str(item.question_id)])
    if not asked:
        raise DataError(f"{data / 'test.scene.tsv'}: no scenes with questions to score by; see make_shapes")
    return Truth(keys, scenes, captions, asked)


def _parse_scene(columns: list[str], where: str) -> tuple[str, dict[str, Any]]:
    expected = 'expected a key and {"objects": [...], "answers": {...}}'
    try:
        key, text = columns
        truth = json.loads(text)
        if isinstance(truth["objects"], list) and isinstance(truth["answers"], dict):
            return key, truth
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: {expected}: {error}") from error
    raise DataError(f"{where}: {expected}")


def _attribute_accuracy(texts: list[str], truth: Truth) -> float:
    return fmean(attribute_accuracy(text, scene) for text, scene in zip(texts, truth.scenes, strict=True))


def _vqa_accuracy(answers: dict[int | str, str], truth: Truth) -> float:
    return fmean(exact_match_accuracy(answers[number], [asked.answer]) for number, asked in truth.asked.items())


def _cider(texts: list[str], truth: Truth) -> float:
    found = score(dict(zip(truth.keys, texts, strict=True)), truth.captions, metrics=("CIDEr",), tokenizer="python")
    value = found.overall["CIDEr"]
    if value is None:
        raise JobFailed(f"CIDEr: {found.reasons['CIDEr']}")
    return value


def _printed(table: dict[str, list[float]]) -> str:
    """The scores as an aligned table."""
    first = max(map(len, table))
    lines = [" " * first + "".join(f"{column:>18}" for column in COLUMNS)]
    lines += [f"{name:<{first}}" + "".join(f"{value:>18.1f}" for value in values) for name, values in table.items()]
    return "\n".join(lines)
