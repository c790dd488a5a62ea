"""Parts that hold lines of a TSV file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from git_caption.samples.sample import Failure
from git_caption.tsv.writer import TsvWriter, encode

Lines = Sequence[Sequence[str]]


class TsvParts:
    """A row gives any number of lines; a failed row those that its Failure says."""

    suffix = ".tsv"

    def encoded(self, outcomes: Sequence[Lines | Failure], where: str) -> bytes:
        """The lines of a chunk. Raises DataError as `encode` does."""
        each = (outcome.lines if isinstance(outcome, Failure) else outcome for outcome in outcomes)
        return b"".join(encode(columns, where) for lines in each for columns in lines)

    @contextmanager
    def joined(self, parts: Sequence[Path], out: Path, scratch: Path) -> Iterator[int]:
        """Gives the number of lines; the output and its indexes stand there once the block ends."""
        lines = 0
        with TsvWriter(out, scratch=scratch) as writer:
            for part in parts:
                content = part.read_bytes()
                writer.write_encoded(content)
                lines += content.count(b"\n")
            yield lines


TSV = TsvParts()
