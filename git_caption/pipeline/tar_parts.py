"""Parts of webdataset's tars: each is a run of members, and the output is tars of so many samples each."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from git_caption.errors import DataError
from git_caption.images.formats import image_format
from git_caption.samples.sample import Failure
from git_caption.samples.stored_rows import StoredRow
from git_caption.tsv.index import temporary_path
from git_caption.tsv.rows import dumps
from git_caption.tsv.writer import sync_folder

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class TarParts:
    """A row gives a sample, a failed row none. The tars of `NAME.tar` are `NAME-00000.tar`, `NAME-00001.tar`, ...

    Members are named by the row's number: `000000012.jpg`, `.txt` (the first caption), `.json` (the key),
    `.caption.json` and `.question.json` (the second columns of these TSVs).
    """

    rows_per_tar: int

    suffix = ".tar"

    def encoded(self, outcomes: Sequence[StoredRow | Failure], where: str) -> bytes:
        """The members of a chunk."""
        rows = (outcome for outcome in outcomes if not isinstance(outcome, Failure))
        return b"".join(
            _member(f"{row.number:09}.{name}", data, where) for row in rows for name, data in _files(row).items()
        )

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of samples; the tars have their names once the block ends, and no older one is left."""
        written: list[Path] = []
        samples = 0
        file: BinaryIO | None = None
        try:
            for part in parts:
                for sample in _samples(part.read_bytes()):
                    if samples % self.rows_per_tar == 0:
                        _end(file)
                        written.append(temporary_path(_name(out, len(written)), scratch))
                        file = open(written[-1], "xb")  # noqa: SIM115 - closed by _end
                    assert file is not None
                    file.write(sample)
                    samples += 1
            _end(file)
            file = None
            yield samples
            for number, temporary in enumerate(written):
                os.replace(temporary, _name(out, number))
            for path in tars_of_name(out)[len(written) :]:
                path.unlink()
            sync_folder(out.parent)
        finally:
            if file is not None:
                file.close()
            for temporary in written:
                temporary.unlink(missing_ok=True)


def tars_of_name(out: Path) -> list[Path]:
    """The tars of that name which are there, in order."""
    name = re.compile(rf"{re.escape(out.stem)}-\d{{5,}}\.tar")
    return sorted((path for path in out.parent.iterdir() if name.fullmatch(path.name)), key=lambda path: path.name)


def _name(out: Path, number: int) -> Path:
    return out.with_name(f"{out.stem}-{number:05}.tar")


def _files(row: StoredRow) -> dict[str, bytes]:
    texts = {"txt": row.texts[0]} if row.texts else {}
    texts["json"] = dumps({"key": row.key})
    stored = {"caption.json": row.captions, "question.json": row.questions}
    texts |= {name: text for name, text in stored.items() if text is not None}
    return {image_format(row.image) or "jpg": row.image, **{name: text.encode() for name, text in texts.items()}}


def _member(name: str, data: bytes, where: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    try:
        header = info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise DataError(f"{where}: {name} does not fit into a tar: {error}") from error
    return header + data + bytes(-len(data) % BLOCK)


def _samples(part: bytes) -> Iterator[memoryview]:
    """The members of each sample, with their headers."""
    view = memoryview(part)
    begin = end = 0
    key = b""
    while end < len(part):
        header = part[end : end + BLOCK]
        name, size = header[:9], int(header[124:135], 8)
        if name != key and end > begin:
            yield view[begin:end]
            begin = end
        key = name
        end += BLOCK + size + -size % BLOCK
    if end > begin:
        yield view[begin:end]


def _end(file: BinaryIO | None) -> None:
    """Ends a tar as tar does: two empty blocks, filled up to a record."""
    if file is None:
        return
    file.write(END)
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    file.flush()
    os.fsync(file.fileno())
    file.close()
