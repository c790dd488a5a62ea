"""The end of a run: status rows and images in the order of the list, over all shards, in constant memory."""

from __future__ import annotations

import os
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Self

from git_caption.downloads.formats import Earlier, read_tar, read_tsv, write_table, write_tar, write_tsv
from git_caption.downloads.list import ListRow, UrlList, key_of
from git_caption.downloads.near import near_duplicates
from git_caption.downloads.status import OK, StatusRow, encode, parse_line, read_lines
from git_caption.downloads.store import Blobs, remove_partial
from git_caption.downloads.survey import Survey
from git_caption.downloads.work import LOG, Output
from git_caption.errors import JobFailed
from git_caption.params.download import DownloadParams
from git_caption.tsv.index import temporary_path

PLACE = struct.Struct("<HQ")  # number of a file from 1, offset of a line in it; 0 where a row has none


@dataclass(frozen=True)
class Totals:
    """What a complete run came to: rows by cause, bytes of the images."""

    causes: Counter[str]
    bytes: int

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """Those that a summary tells."""
        return cls(Counter(summary["causes"]), summary["bytes"])


def finish(source: UrlList, found: Survey, output: Output, folders: Sequence[Path], params: DownloadParams) -> Totals:
    """Write what the run promised; done again after a kill it comes to the same.

    Args:
        source: the list.
        found: what it holds.
        output: where to.
        folders: those of all shards, whose logs have all rows but those that `output.status` has already.
        params: the run's.
    """
    temporary = temporary_path(output.status, output.work)
    try:
        totals = _write_status(temporary, found, [output.status, *(folder / LOG for folder in folders)], params)
        _write_images(source, temporary, output, folders, params)
        os.replace(temporary, output.status)
    finally:
        temporary.unlink(missing_ok=True)
    return totals


def _write_status(path: Path, found: Survey, logs: Sequence[Path], params: DownloadParams) -> Totals:
    causes: Counter[str] = Counter()
    size = 0
    with ExitStack() as stack:
        order = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
        files = {number: stack.enter_context(open(log, "rb")) for number, log in enumerate(logs, 1) if log.exists()}
        _note_places(order, logs)
        alike = near_duplicates(_rows(order, files, found)) if params.pictures.near_duplicates else {}
        with open(path, "wb") as out:
            for row in _rows(order, files, found):
                earlier = alike.get(row.number)
                row = replace(row, near_duplicate_of=None if earlier is None else key_of(earlier))
                causes[row.cause] += 1
                size += row.bytes
                out.write(encode(row))
            out.flush()
            os.fsync(out.fileno())
    return Totals(causes, size)


def _note_places(order: BinaryIO, logs: Sequence[Path]) -> None:
    """Where the last line of each row is: an entry for each row."""
    for number, log in enumerate(logs, 1):
        for offset, line in read_lines(log):
            row = parse_line(line, str(log)).number
            os.pwrite(order.fileno(), PLACE.pack(number, offset), row * PLACE.size)


def _rows(order: BinaryIO, files: Mapping[int, BinaryIO], found: Survey) -> Iterator[StatusRow]:
    """All rows in order; those that repeat an address have the line of the first one."""
    repeats = iter(zip(found.repeats.tolist(), found.first.tolist(), strict=True))
    repeat, first = next(repeats, (-1, -1))
    for row in range(found.rows):
        written = row
        if row == repeat:
            written = first
            repeat, first = next(repeats, (-1, -1))
        entry = os.pread(order.fileno(), PLACE.size, written * PLACE.size)
        number, offset = PLACE.unpack(entry) if len(entry) == PLACE.size else (0, 0)
        if not number:
            raise JobFailed(f"row {row} of the list has no status row: start again in another 'output_dir'")
        files[number].seek(offset)
        status = parse_line(files[number].readline(), files[number].name)
        yield replace(status, key=key_of(row))


def _write_images(
    source: UrlList, status: Path, output: Output, folders: Sequence[Path], params: DownloadParams
) -> None:
    """Images and captions as the format says; of files, which are there already, a table of their captions."""
    causes = (parse_line(line, str(status)).cause for _, line in read_lines(status))
    rows = zip(source, (cause == OK for cause in causes), strict=True)
    if params.output.format == "files":
        remove_partial(output.images)
        if source.caption_column is not None and params.addresses.list is not None:
            write_table(output, (row for row, done in rows if done))
        return
    chunk_rows = params.output.rows_per_tar
    chunks = enumerate(iter(lambda: list(islice(rows, chunk_rows)), []))
    if params.output.format == "webdataset":
        for number, chunk in chunks:
            path = output.images / f"{number:05d}.tar"
            write_tar(path, _images(chunk, Blobs(folders, number), Earlier(read_tar(path))), output.work)
        return
    earlier = Earlier(read_tsv(output))
    images = (_images(chunk, Blobs(folders, number), earlier) for number, chunk in chunks)
    write_tsv(output, chain.from_iterable(images), with_captions=source.caption_column is not None)


def _images(chunk: Sequence[tuple[ListRow, bool]], blobs: Blobs, earlier: Earlier) -> Iterator[tuple[ListRow, bytes]]:
    """The images of rows that have one: of this run, else as an earlier one wrote them."""
    for row, done in chunk:
        if done:
            image = blobs.get(row.number)
            image = earlier.get(row.number) if image is None else image
            if image is None:
                raise JobFailed(f"the image of row {row.number} is gone: start again in another 'output_dir'")
            yield row, image
