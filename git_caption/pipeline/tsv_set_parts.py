"""Parts of several TSVs that are written together: row i of each is of one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from git_caption.samples.sample import Failure
from git_caption.tsv.writer import TsvWriter, encode


@dataclass(frozen=True)
class TsvSetParts:
    """A row gives a line for each of the files; a failed row none, or those that its Failure says."""

    files: tuple[Path, ...]

    suffix = ".tsv"

    def encoded(self, outcomes: Sequence[tuple[bytes, ...] | Failure], where: str) -> bytes:
        """The lines of a chunk, those of a row one after the other."""
        lines: list[bytes] = []
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                lines += (encode(columns, where) for columns in outcome.lines)
            else:
                lines += (line + b"\n" for line in outcome)
        return b"".join(lines)

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of rows; the files and their indexes stand there once the block ends."""
        rows = 0
        with ExitStack() as stack:
            writers = [stack.enter_context(TsvWriter(file, scratch=scratch)) for file in self.files]
            for part in parts:
                lines = part.read_bytes().split(b"\n")[:-1]
                for number, writer in enumerate(writers):
                    writer.write_encoded(b"".join(line + b"\n" for line in lines[number :: len(writers)]))
                rows += len(lines) // len(writers)
            yield rows
