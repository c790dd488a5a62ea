"""Status rows: what became of each address, one JSON object a line, in a log that survives a kill.

    {"bytes":30211,"cause":"ok","height":480,"key":"00000000","seconds":0.211,"sha256":"...","status":200,"url":"...",
     "width":640}

While a run goes on, its log has a line for each address fetched; the rows that repeat an address are added at the end,
when all rows are put in the order of the list.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.tsv.rows import dumps

OK = "ok"
ROUND = 3  # decimals of seconds
WITHOUT_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # of file systems


@dataclass(frozen=True, slots=True)
class StatusRow:
    """What became of an address.

    Attributes:
        key: of the list's row.
        url: as the list has it.
        status: the last HTTP status; None where no server answered.
        cause: `ok`, or why there is no image; see `params.download.CAUSES`.
        bytes: of the image as written; 0 where there is none.
        sha256: of the same bytes.
        width, height: of the picture as written; None where it was not decoded.
        seconds: from the first request to the last byte.
        hash: perceptual hash in hexadecimal, where near duplicates are looked for.
        near_duplicate_of: key of an earlier image that looks the same.
    """

    key: str
    url: str
    status: int | None
    cause: str
    bytes: int = 0
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float = 0.0
    hash: str | None = None
    near_duplicate_of: str | None = None

    @property
    def number(self) -> int:
        """The list's row."""
        return int(self.key)


FIELDS = tuple(field.name for field in fields(StatusRow))


def encode(row: StatusRow) -> bytes:
    """A row as its line."""
    entry = {field: getattr(row, field) for field in FIELDS}
    entry["seconds"] = round(row.seconds, ROUND)
    for name in ("hash", "near_duplicate_of"):
        if entry[name] is None:
            del entry[name]
    return dumps(entry).encode() + b"\n"


def parse_line(line: bytes, where: str) -> StatusRow:
    """A row. Raises DataError if the line is none."""
    try:
        entry: Any = json.loads(line)
        row = StatusRow(**entry)
        int(row.key)
        return row
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {line[:80]!r} is no status row") from error


def read_rows(path: Path) -> Iterator[StatusRow]:
    """The rows of a file, none where it is not there. Raises DataError for a line that is none."""
    for number, (_, line) in enumerate(read_lines(path), 1):
        yield parse_line(line, f"{path}:{number}")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and line, of complete lines only."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


class StatusLog:
    """A file that rows are appended to; `append` returns once they are on the disk."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._descriptor, _end_of_last_line(self._descriptor))

    def append(self, rows: list[StatusRow]) -> None:
        """Add rows."""
        data = memoryview(b"".join(map(encode, rows)))
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _end_of_last_line(descriptor: int) -> int:
    """Where the last complete line ends: a kill may leave the beginning of one behind it."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - (1 << 16))
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder for this run: gives whether it is held, and not by another one, nor gone.

    The lock dies with the process.
    """
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor, path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    # Who held it before may have ended the run, and removed the folder.
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
