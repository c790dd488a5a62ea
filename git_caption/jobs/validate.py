"""A data set looked through before it is trained on: what is in it, and what is wrong with it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from git_caption.errors import JobFailed
from git_caption.jobs.convert import write_json
from git_caption.params.validate import ValidateDataParams
from git_caption.pipeline.chunks import CHUNK_ROWS
from git_caption.pipeline.workers import read_chunks
from git_caption.samples.checked import CheckedRow, CheckedRows, digest
from git_caption.samples.open_data import open_data
from git_caption.samples.sample import Failure
from git_caption.samples.training_data import TrainingData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 10  # bad rows that are told
PERCENTILES = {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


def validate_data(params: ValidateDataParams) -> None:
    """Print what a data set holds and which rows cannot be trained on; write the same as JSON where asked.

    Raises:
        JobFailed: more bad rows than `max_errors`, or no good one; after all was reported.
    """
    tokenizer = None if params.tokenizer is None else _tokenizer(params.tokenizer)
    data = open_data(
        params.data, split=params.split, image_column=params.image_column, caption_column=params.caption_column
    )
    tally = Tally(tokenizer)
    source = CheckedRows(data)
    numbers = range(-(-len(data) // CHUNK_ROWS))
    chunks = read_chunks(source, numbers, lambda number: _rows(number, len(data)), params.workers)
    with closing(chunks), tqdm(total=len(data), unit="row", disable=None) as progress:
        for number, items in chunks:
            tally.add(_rows(number, len(data)), [item for item in items if not isinstance(item, Failure)])
            progress.update(len(items))
    found = {"data": params.data, **tally.report(data)}
    print(_printed(found))
    if params.out_json is not None:
        write_json(params.out_json, found, indent=2)
        print(f"written: {params.out_json}")
    bad = found["bad_rows"]
    if bad == len(data):
        raise JobFailed(f"{params.data}: none of the {bad} rows can be trained on")
    if params.max_errors is not None and bad > params.max_errors:
        raise JobFailed(f"{params.data}: {bad} bad rows, 'max_errors' allows {params.max_errors}")


class Tally:
    """What was found in the rows so far.

    Memory: 32 bytes a row, 20 a caption and 8 a question; no text is kept but of different answers and of the first
    bad rows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        self.keys, self.images, self.captions = Seen(), Seen(), Seen()
        self.lengths = array("i")
        self.asked = array("i")  # answers of each question
        self.answers: set[str] = set()
        self.good = self.missing = self.broken = self.unusable = self.bad = 0
        self.first_bad: list[dict[str, Any]] = []

    def add(self, rows: Iterable[int], checked: list[CheckedRow]) -> None:
        """Count some rows."""
        for row, item in zip(rows, checked, strict=True):
            if not item.text_fault:
                key = digest(item.key.encode("utf-8", "surrogatepass"))
                self.keys.add(key, row)
                picture = key if item.image is None else item.image
                for caption in item.captions:
                    self.captions.add(digest(f"{picture} {caption}".encode()), row)
            if item.image is not None:
                self.images.add(item.image, row)
            # An entry that cannot be read says nothing of an image: it has the same fault twice.
            faults = (item.text_fault, *item.left_out, item.image_fault)
            causes = list(dict.fromkeys(fault for fault in faults if fault))
            for question in item.questions:
                self.asked.append(len(question.answers))
                self.answers.update(question.answers)
            self.good += not item.image_fault
            self.missing += item.missing
            self.broken += item.image_fault not in ("", item.text_fault) and not item.missing
            self.unusable += bool(item.text_fault)
            self.bad += bool(causes)
            if causes and len(self.first_bad) < SHOWN:
                self.first_bad.append({"row": row + 1, "key": item.key, "cause": "; ".join(causes)})
        self._measure([caption for item in checked for caption in item.captions])

    def _measure(self, captions: list[str]) -> None:
        if self.tokenizer is None:
            self.lengths.extend(len(caption.split()) for caption in captions)
        elif captions:
            ids = self.tokenizer(captions, add_special_tokens=False)["input_ids"]
            self.lengths.extend(len(tokens) for tokens in ids)

    def report(self, data: TrainingData) -> dict[str, Any]:
        """All that was found, as JSON can hold it."""
        rows = len(data)
        return {
            "format": data.kind,
            "inputs": [str(path) for path in data.inputs],
            "rows": rows,
            "rows_left_out": data.missing,
            "images": {"good": self.good, "missing": self.missing, "broken": self.broken},
            "captions": len(self.lengths),
            "questions": len(self.asked),
            "answers": {"count": sum(self.asked), "different": len(self.answers), **self._answers_each()},
            "rows_without_usable_texts": self.unusable,
            "duplicates": {
                name: {"count": len(again), "first": [[data.where(row) for row in pair] for pair in again[:3]]}
                for name, seen in (("keys", self.keys), ("images", self.images), ("captions", self.captions))
                for again in [seen.again()]
            },
            "caption_length": {"unit": "words" if self.tokenizer is None else "tokens", **self._percentiles()},
            "bad_rows": self.bad,
            "first_bad_rows": self.first_bad,
        }

    def _answers_each(self) -> dict[str, int]:
        """The fewest and the most answers of a question."""
        return {"fewest": min(self.asked), "most": max(self.asked)} if self.asked else {}

    def _percentiles(self) -> dict[str, int]:
        if not self.lengths:
            return {}
        found = np.percentile(np.array(self.lengths), list(PERCENTILES.values()), method="inverted_cdf")
        return {name: int(value) for name, value in zip(PERCENTILES, found, strict=True)}


class Seen:
    """Digests with the rows they are of."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._rows = array("q")

    def add(self, value: int, row: int) -> None:
        """Notes one."""
        self._digests.append(value)
        self._rows.append(row)

    def again(self) -> list[tuple[int, int]]:
        """For each that came before: the row where it came first, and its own."""
        _, first, which = np.unique(np.array(self._digests), return_index=True, return_inverse=True)
        before = first[which]
        later = np.flatnonzero(before != np.arange(len(before)))
        return [(self._rows[int(before[number])], self._rows[int(number)]) for number in later]


def _rows(number: int, count: int) -> range:
    return range(number * CHUNK_ROWS, min(count, (number + 1) * CHUNK_ROWS))


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from git_caption.captioner import checkpoint_folder, hub
    from git_caption.text.tokenizer import load_tokenizer

    folder = Path(name)
    if not folder.is_dir():
        folder = hub.resolve_language_model(name, weights=False)
    elif (folder / checkpoint_folder.TOKENIZER).is_dir():
        folder = checkpoint_folder.tokenizer_folder(folder)
    return load_tokenizer(folder)


def _printed(found: dict[str, Any]) -> str:
    """The report as lines of text."""
    images, duplicates, length = found["images"], found["duplicates"], found["caption_length"]
    answers = found["answers"]
    each = f", {answers['fewest']} to {answers['most']} a question" if found["questions"] else ""
    left_out = f", {found['rows_left_out']} left out whose image is not there" if found["rows_left_out"] else ""
    measured = " ".join(f"{name} {length[name]}" for name in length if name != "unit") or "none"
    lines = [
        f"{found['data']}: {found['format']}",
        f"rows            {found['rows']}{left_out}",
        f"images          {images['good']} good, {images['missing']} missing, {images['broken']} broken",
        f"captions        {found['captions']}; {found['rows_without_usable_texts']} rows without usable texts",
        f"questions       {found['questions']}; {answers['count']} answers, {answers['different']} different{each}",
        f"caption length  {measured} {length['unit']}",
        "duplicates      "
        + ", ".join(
            f"{duplicates[name]['count']} {meaning}"
            for name, meaning in (("keys", "keys"), ("images", "images"), ("captions", "captions of one image"))
        ),
        f"bad rows        {found['bad_rows']}",
    ]
    for name, noun in (("keys", "key"), ("images", "image"), ("captions", "caption")):
        for first, later in duplicates[name]["first"]:
            lines.append(f"  the same {noun}: {first}" + (" twice" if first == later else f" and {later}"))
    lines += [f"  {bad['cause']}" for bad in found["first_bad_rows"]]
    if found["bad_rows"] > SHOWN:
        lines.append(f"  ... and {found['bad_rows'] - SHOWN} more")
    return "\n".join(lines)
