"""The job that tells what is in a TSV and its companions."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np

from git_caption.errors import DataError
from git_caption.images.formats import image_format
from git_caption.jobs.convert import write_json
from git_caption.params.tsv_names import QUESTIONS
from git_caption.params.tsv_tools import InfoParams
from git_caption.samples.checked import digest
from git_caption.samples.tsv_set import TsvSet
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_answer_row, parse_caption_row, parse_image_row, parse_question_row

SHOWN = 10  # bad rows that are told


def info(params: InfoParams) -> None:
    """Print what is in a TSV and its companions; write the same as JSON where asked."""
    found = look(TsvSet(params.tsv))
    print(printed(found))
    if params.out_json is not None:
        write_json(params.out_json, found, indent=2)
        print(f"written: {params.out_json}")


def look(rows: TsvSet) -> dict[str, Any]:
    """What is in a set, file by file; of images the format, by their first bytes.

    Memory: 8 bytes a row and 4 a caption.
    """
    keys, apart = array("Q"), 0
    for row in range(len(rows)):
        names = [file.raw(row).partition(b"\t")[0] for file in rows.files]
        apart += len(set(names)) > 1
        keys.append(digest(names[0]))
    tallies = [_Tally(file) for file in rows.files]
    return {
        "rows": len(rows),
        "duplicate_keys": len(keys) - len(np.unique(np.frombuffer(keys, dtype=np.uint64))),
        "rows_with_other_keys_beside": apart,
        "files": {str(tally.file.path): tally.report() for tally in tallies},
        "first_bad_rows": [cause for tally in tallies for cause in tally.first_bad][:SHOWN],
    }


class _Tally:
    """What the rows of one file hold; what each is tells its second column."""

    def __init__(self, file: TsvFile) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.words = array("i")
        self.first_bad: list[str] = []
        for row in range(len(file)):
            try:
                self._add(file.columns(row), file.where(row))
            except DataError as error:
                self.counts["bad_rows"] += 1
                if len(self.first_bad) < SHOWN:
                    self.first_bad.append(str(error))

    def _add(self, columns: list[str], where: str) -> None:
        if len(columns) == 1:
            parse_answer_row(columns, where)
            self.counts["answers"] += 1
        elif not columns[-1].startswith("["):
            self.formats[image_format(parse_image_row(columns, where).image) or "unknown"] += 1
            self.counts["images"] += 1
        elif '"question_id"' in columns[-1] or self.file.path.name.endswith(QUESTIONS):
            asked = parse_question_row(columns, where).questions
            self.counts["questions"] += len(asked)
            self.counts["questions_with_answers"] += sum(bool(question.answers) for question in asked)
        else:
            captions = parse_caption_row(columns, where).captions
            self.counts["captions"] += len(captions)
            self.words.extend(len(caption.split()) for caption in captions)

    def report(self) -> dict[str, Any]:
        """All that was found, as JSON can hold it."""
        found: dict[str, Any] = {"bytes": self.file.path.stat().st_size, **self.counts}
        if self.formats:
            found["formats"] = dict(self.formats.most_common())
        if self.words:
            places = {"min": 0, "p50": 50, "p90": 90, "max": 100}
            values = np.percentile(np.frombuffer(self.words, dtype=np.int32), list(places.values()), method="nearest")
            found["words"] = dict(zip(places, map(int, values), strict=True))
        return found


def printed(found: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [f"{found['rows']} rows, {found['duplicate_keys']} keys that came before"]
    if found["rows_with_other_keys_beside"]:
        lines.append(f"{found['rows_with_other_keys_beside']} rows whose keys differ from file to file")
    for path, held in found["files"].items():
        parts = [f"{held['bytes'] / 1e6:.1f} MB"]
        parts += [
            f"{count} {name.replace('_', ' ')}"
            for name, count in held.items()
            if isinstance(count, int) and name != "bytes"
        ]
        for name in ("formats", "words"):
            if name in held:
                parts.append(f"{name}: {', '.join(f'{key} {value}' for key, value in held[name].items())}")
        lines.append(f"{path}: {'; '.join(parts)}")
    return "\n".join([*lines, *(f"bad: {cause}" for cause in found["first_bad_rows"])])
