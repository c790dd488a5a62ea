"""Parts of captions and answers that become JSONL or Parquet: the lines of a TSV as records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from git_caption.params.packages import PARQUET
from git_caption.pipeline.chunks import PartFormat
from git_caption.pipeline.tsv_parts import TSV, Lines
from git_caption.samples.sample import Failure
from git_caption.tsv.rows import dumps
from git_caption.tsv.writer import whole_file

JSONL = (".jsonl", ".ndjson")
GROUP_ROWS = 1 << 14  # of a row group of Parquet


@dataclass(frozen=True)
class Recorded:
    """What a record of the output holds.

    answers: `question_id` and `answer`; else `key` and `caption`. several: in place of `caption` a list `captions` of
    objects with one each. scores: `logprob` and `mean_logprob` beside each text.
    """

    answers: bool
    several: bool
    scores: bool

    def record(self, columns: Sequence[str]) -> dict[str, Any]:
        """A line of the TSV."""
        found = json.loads(columns[-1])
        if self.answers:
            return dict(found)
        return {"key": columns[0], **({"captions": found} if self.several else found[0])}


def written_as(out: str, recorded: Recorded) -> PartFormat:
    """The format of an output, by the ending of its name."""
    if out.endswith(JSONL):
        return JsonlParts(recorded)
    return ParquetParts(recorded) if out.endswith(PARQUET) else TSV


@dataclass(frozen=True)
class JsonlParts:
    """A row gives any number of records, an object a line; a failed row those of its Failure's lines."""

    recorded: Recorded

    suffix = ".jsonl"

    def encoded(self, outcomes: Sequence[Lines | Failure], where: str) -> bytes:
        """The records of a chunk."""
        each = (outcome.lines if isinstance(outcome, Failure) else outcome for outcome in outcomes)
        return b"".join(dumps(self.recorded.record(columns)).encode() + b"\n" for lines in each for columns in lines)

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of records; the output stands there once the block ends."""
        lines = 0
        with whole_file(out, scratch) as file:
            for part in parts:
                content = part.read_bytes()
                file.write(content)
                lines += content.count(b"\n")
            yield lines


@dataclass(frozen=True)
class ParquetParts(JsonlParts):
    """The same records as rows of a Parquet file. Question ids are numbers where all of them are, else texts."""

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of rows; the output stands there once the block ends."""
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        schema = self._schema(arrow, parts)
        lines = 0
        with whole_file(out, scratch) as file, parquet.ParquetWriter(file, schema) as writer:
            for rows in _grouped(parts):
                if self.recorded.answers and schema.field("question_id").type == arrow.string():
                    rows = [{**row, "question_id": str(row["question_id"])} for row in rows]
                writer.write_table(arrow.Table.from_pylist(rows, schema))
                lines += len(rows)
            writer.close()
            yield lines

    def _schema(self, arrow: Any, parts: Sequence[Path]) -> Any:
        text, number = arrow.string(), arrow.float64()
        scores = [("logprob", number), ("mean_logprob", number)] if self.recorded.scores else []
        if self.recorded.answers:
            numbers = all(_is_number(row["question_id"]) for rows in _grouped(parts) for row in rows)
            return arrow.schema([("question_id", arrow.int64() if numbers else text), ("answer", text), *scores])
        caption = [("caption", text), *scores]
        if self.recorded.several:
            return arrow.schema([("key", text), ("captions", arrow.list_(arrow.struct(caption)))])
        return arrow.schema([("key", text), *caption])


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 63


def _grouped(parts: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    """The records of all parts, as many at a time as a row group holds."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += [json.loads(line) for line in part.read_bytes().split(b"\n")[:-1]]
        while len(rows) >= GROUP_ROWS:
            yield rows[:GROUP_ROWS]
            rows = rows[GROUP_ROWS:]
    if rows:
        yield rows
