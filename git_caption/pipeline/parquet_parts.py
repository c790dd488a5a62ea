"""Parts of a Parquet file of images and what is said about them: each is a small one, and the output is one of all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from git_caption.images.formats import image_format
from git_caption.samples.parquet_data import CAPTIONS, QUESTIONS
from git_caption.samples.sample import Failure
from git_caption.samples.stored_rows import StoredRow
from git_caption.tsv.writer import whole_file

GROUP_BYTES = 1 << 25  # of a row group, before compression


@dataclass(frozen=True)
class ImageParquetParts:
    """A row gives a row, a failed row none. The image is a record of bytes and path, as Hugging Face's data sets have.

    captions, questions: whether there are such columns.
    """

    captions: bool
    questions: bool

    suffix = ".parquet"

    def encoded(self, outcomes: Sequence[StoredRow | Failure], where: str) -> bytes:
        """The Parquet file of a chunk."""
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        rows = [self._record(outcome) for outcome in outcomes if not isinstance(outcome, Failure)]
        file = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(rows, self._schema(arrow)), file, use_dictionary=False)
        return file.getvalue()

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of rows; the file stands there once the block ends."""
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        rows = 0
        with whole_file(out, scratch) as file:
            with parquet.ParquetWriter(file, self._schema(arrow), use_dictionary=False) as writer:
                for tables in _grouped(parquet.read_table(part) for part in parts):
                    table = arrow.concat_tables(tables)
                    writer.write_table(table, row_group_size=max(1, len(table)))
                    rows += len(table)
            yield rows

    def _record(self, row: StoredRow) -> dict[str, Any]:
        return {
            "key": row.key,
            "image": {"bytes": row.image, "path": f"{row.number:09}.{image_format(row.image) or 'jpg'}"},
            "captions": list(row.texts),
            CAPTIONS: row.captions,
            QUESTIONS: row.questions,
        }

    def _schema(self, arrow: Any) -> Any:
        text = arrow.string()
        columns = [("key", text), ("image", arrow.struct([("bytes", arrow.binary()), ("path", text)]))]
        features: dict[str, Any] = {"key": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}
        if self.captions:
            columns += [("captions", arrow.list_(text)), (CAPTIONS, text)]
            features["captions"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
        if self.questions:
            columns.append((QUESTIONS, text))
        for name in (CAPTIONS, QUESTIONS):
            if name in dict(columns):
                features[name] = {"dtype": "string", "_type": "Value"}
        # With this the package `datasets` shows the images as such.
        return arrow.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _grouped(tables: Iterator[Any]) -> Iterator[list[Any]]:
    """Tables until they fill a row group."""
    held: list[Any] = []
    for table in tables:
        held.append(table)
        if sum(each.nbytes for each in held) >= GROUP_BYTES:
            yield held
            held = []
    if held:
        yield held
