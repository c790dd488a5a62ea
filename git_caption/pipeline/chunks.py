"""Chunks of an output: committed one by one beside it, resumed, and joined when all are there.

`OUT.parts/` holds `manifest.json` (what the parts were made from), `000007.tsv` (what chunk 7 gave, in the format of
the parts) and `000007.errors.tsv` (its rows that failed, if any). A part has its name only once it is complete and on
the disk. The output is also joined there, so that a run that is killed leaves nothing anywhere else. Of a run whose
rows all failed there is only `errors.tsv`, until the next one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from git_caption.errors import JobFailed, UsageError
from git_caption.params.differences import differences
from git_caption.pipeline.lock import locked
from git_caption.tsv.index import TEMPORARY
from git_caption.tsv.rows import dumps
from git_caption.tsv.writer import encode, sync_folder, write_atomically

CHUNK_ROWS = 256
IMAGE_CHUNK_ROWS = 64  # where rows hold whole image files: a chunk is in memory at once
CHUNK_BYTES = 1 << 23  # where it is known how large rows are
REMOVED_AT_A_TIME = 16  # files: a disk takes some milliseconds for each, and they may be a hundred thousand

SPACES = str.maketrans("\t\r\n", "   ")


@dataclass(frozen=True)
class FailedRow:
    """A row that was not processed. `row` is 0-based; in files and messages it is 1-based."""

    row: int
    key: str
    cause: str

    def columns(self) -> list[str]:
        """Row, key and cause as `OUT.errors.tsv` holds them: what a line cannot hold is a space, or escaped."""
        shown = [text.encode("utf-8", "backslashreplace").decode() for text in (self.key, self.cause)]
        return [str(self.row + 1), shown[0].translate(SPACES), " ".join(shown[1].split())]


def chunk_rows_of(size: int, rows: int) -> int:
    """Rows of a chunk of rows that are read as they lie in files of `size` bytes."""
    return max(8, min(1 << 14, CHUNK_BYTES * rows // max(1, size)))


class PartFormat(Protocol):
    """How what a chunk gave is written, and the output made of the chunks."""

    @property
    def suffix(self) -> str:
        """Ends the name of a part."""

    def encoded(self, outcomes: Sequence[Any], where: str) -> bytes:
        """The part of a chunk, from what each row gave, a Failure for one that failed; the same bytes in every run.

        Raises DataError naming `where` for what cannot be written.
        """

    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> AbstractContextManager[int]:
        """Writes the output from all parts in order, in the folder `scratch`; gives how many lines or rows it has.

        Rows of a feature cache without features do not count. The output has its name, in place of an older one, once
        the block ends without an exception.
        """


class Parts:
    """The parts of one output, held by `opened`.

    committed: numbers of the chunks that are done. failures: the rows that failed in them.
    """

    def __init__(self, out: Path, rows: int, form: PartFormat, chunk_rows: int = CHUNK_ROWS) -> None:
        self.out = out
        self.chunk_rows = chunk_rows
        self.form = form
        self._name = re.compile(rf"(\d{{6,}}){re.escape(form.suffix)}")
        self._ours = re.compile(rf"{self._name.pattern}|(\d{{6,}}\.)?errors\.tsv|manifest\.json")
        self.folder = Path(f"{out}.parts")
        self.errors_path = Path(f"{out}.errors.tsv")
        self.rows = rows
        self.committed: set[int] = set()
        self.failures: list[FailedRow] = []

    def __len__(self) -> int:
        """Number of chunks."""
        return -(-self.rows // self.chunk_rows)

    def rows_of(self, number: int) -> range:
        """Rows of a chunk."""
        return range(number * self.chunk_rows, min((number + 1) * self.chunk_rows, self.rows))

    def prepare(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Finds what an earlier run of the same command committed, or starts anew.

        Raises UsageError if the parts were made with other settings and `resume` is set.
        """
        manifest = self.folder / "manifest.json"
        self._remove(TEMPORARY)  # they may be what fills the disk
        settings = json.loads(dumps(settings))  # as it comes back from the file: tuples are lists
        digest = hashlib.sha256(dumps(settings).encode()).hexdigest()
        if resume and manifest.exists():
            earlier = self._read_manifest(manifest)
            if earlier["digest"] != digest and (found := differences(earlier["settings"], settings)):
                raise UsageError(
                    f"{self.folder} holds the parts of an unfinished run with other settings ({found}); run it again "
                    "as it was to finish it, or give 'resume': False to drop them and start anew"
                )
            self.committed = self._on_disk()
            for number in sorted(self.committed):
                self.failures += self._failures_of(number)
        else:
            self._clear()
            write_atomically(manifest, (dumps({"digest": digest, "settings": settings}) + "\n").encode())

    def missing(self) -> list[int]:
        """The chunks that are not committed."""
        return [number for number in range(len(self)) if number not in self.committed]

    def gather(self) -> None:
        """Takes in what other processes committed."""
        self.committed = self._on_disk()
        self.committed |= {number for number in self.missing() if self.has(number)}
        self.failures = [failure for number in sorted(self.committed) for failure in self._failures_of(number)]

    def has(self, number: int) -> bool:
        """Whether any process committed a chunk. Asked by name: what a network folder lists may be a minute old."""
        return self._part(number).exists()

    def _on_disk(self) -> set[int]:
        return {int(found[1]) for path in self.folder.iterdir() if (found := self._name.fullmatch(path.name))}

    def _read_manifest(self, manifest: Path) -> dict[str, Any]:
        try:
            earlier = json.loads(manifest.read_bytes())
            return {"digest": str(earlier["digest"]), "settings": dict(earlier["settings"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{manifest} is not a manifest of parts; give 'resume': False to drop the parts and start anew"
            ) from error

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}{self.form.suffix}"

    def _errors_part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.errors.tsv"

    def _failures_of(self, number: int) -> list[FailedRow]:
        path = self._errors_part(number)
        if not path.exists():
            return []
        lines = path.read_bytes().decode("utf-8").split("\n")[:-1]
        return [FailedRow(int(row) - 1, key, cause) for row, key, cause in (line.split("\t") for line in lines)]

    def commit(self, number: int, outcomes: Sequence[Any], failures: Sequence[FailedRow]) -> None:
        """Puts what a chunk's rows gave on the disk, for good. Raises JobFailed where the disk refuses."""
        where = f"{self.out}, chunk {number}"
        encoded = self.form.encoded(outcomes, where)
        errors = b"".join(encode(failure.columns(), where) for failure in failures)
        with self.writing():
            if errors:
                write_atomically(self._errors_part(number), errors)
            else:  # one left by a run that ended between the two files
                self._errors_part(number).unlink(missing_ok=True)
            write_atomically(self._part(number), encoded)
        self.committed.add(number)
        self.failures += failures

    def join(self, some_good: bool = False) -> int:
        """Writes the output and `OUT.errors.tsv` from all parts in order; gives the number of lines.

        Older ones stay in place until the new ones are complete. Raises JobFailed where the disk refuses, or where
        `some_good` is asked for and there are rows, but no line.
        """
        parts = [self._part(number) for number in range(len(self))]
        with self.writing(), self.form.joined(parts, self.out, self.folder) as lines:
            if some_good and self.failures and not lines:
                self._refuse()
            if self.failures:
                self._list_failures(self.errors_path)
            else:
                self.errors_path.unlink(missing_ok=True)
        return lines

    def _list_failures(self, path: Path) -> None:
        failures = sorted(self.failures, key=lambda failure: failure.row)
        errors = (encode(failure.columns(), str(path)) for failure in failures)
        write_atomically(path, b"".join(errors), scratch=self.folder)

    def _refuse(self) -> NoReturn:
        """Leaves an older output and its list as they are, and of the parts a list of the rows, which all failed.

        The parts go: what was wrong may be put right in files that the manifest does not know. Raises JobFailed.
        """
        first = min(self.failures, key=lambda failure: failure.row)
        listed = self.folder / "errors.tsv"
        self.remove()
        self._list_failures(listed)
        raise JobFailed(
            f"{self.out}: none of the {self.rows} rows could be used, so nothing is written there; the first is row "
            f"{first.row + 1}, key {first.key!r}: {first.cause}; all are listed in {listed}"
        )

    def remove(self) -> None:
        """Removes the parts of an output that is complete."""
        with self.writing():
            self._remove(TEMPORARY)  # of a process that died
            self._clear()

    def _clear(self) -> None:
        """Removes our files, the manifest first: parts without one count for nothing."""
        manifest = self.folder / "manifest.json"
        if manifest.exists():
            manifest.unlink()
            sync_folder(self.folder)
        self._remove(self._ours)

    def _remove(self, names: re.Pattern[str]) -> None:
        found = [path for path in self.folder.iterdir() if names.fullmatch(path.name)]
        with ThreadPoolExecutor(REMOVED_AT_A_TIME) as pool:
            list(pool.map(Path.unlink, found))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a refusal of the disk into JobFailed."""
        try:
            yield
        except OSError as error:
            path = error.filename2 or error.filename or self.out  # the second is where a file was to be moved to
            raise JobFailed(
                f"cannot write {path}: {error.strerror or error}; {self.kept()}: run the same command again once that "
                "is put right"
            ) from error

    def kept(self) -> str:
        """What there is to go on from, in words."""
        if not self.folder.exists():
            return f"{self.folder} is gone"
        # Counted on the disk: a signal may have come between a part and its entry in `committed`.
        return f"{len(self._on_disk())} of {len(self)} chunks are kept in {self.folder}"


@contextmanager
def opened(
    out: str | Path,
    rows: int,
    settings: Mapping[str, Any],
    form: PartFormat,
    *,
    resume: bool,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Parts]:
    """The parts of `out`, locked against a second run.

    settings: all that can change a byte of the output, as JSON can hold it.
    Raises JobFailed if another run holds them or the disk refuses, UsageError if they were made with other settings or
    `out` is a folder.
    """
    parts = Parts(Path(out), rows, form, chunk_rows)
    if parts.out.is_dir():
        raise UsageError(f"{out} is a folder, expected the name of the file to write")
    with parts.writing():
        parts.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with parts.writing():
            stack.enter_context(locked(parts.folder / "lock", parts.out))
            parts.prepare(settings, resume)
        yield parts
    with suppress(OSError):  # not empty: the parts of a run that goes on later, or files that are not ours
        parts.folder.rmdir()
