"""The pictures that a run could not read, or captions of theirs: counted, bounded and listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from git_caption.errors import DataError, JobFailed
from git_caption.params.training.dataset import DatasetParams
from git_caption.pipeline.chunks import FailedRow
from git_caption.samples.steps import Step
from git_caption.tsv.writer import encode, write_atomically


class Skipped:
    """What one process has skipped, each row once; `on_error` and `max_errors` say what is allowed."""

    def __init__(self, params: DatasetParams, accelerator: Accelerator) -> None:
        self.params = params
        self.accelerator = accelerator
        self.rows: dict[int, FailedRow] = {}

    def note(self, step: Step) -> None:
        """Note what a step has skipped.

        Raises:
            DataError: `on_error` allows none; names file, row and key.
            JobFailed: more than `max_errors` allows.
        """
        for row, failure in step.failed.items():
            if self.params.on_error == "raise":
                raise DataError(f"{failure.reason} (key {failure.key!r})")
            self.rows.setdefault(row, FailedRow(row, failure.key, failure.reason))
        allowed = self.params.max_errors
        if allowed is not None and len(self.rows) > allowed:
            raise JobFailed(
                f"{len(self.rows)} pictures, or captions of theirs, could not be used, 'max_errors' allows {allowed}; "
                f"the first: {self.first}"
            )

    @property
    def first(self) -> str:
        """Why the first of them could not be used."""
        return next(iter(self.rows.values())).cause

    def of_all_processes(self) -> list[tuple[int, str, str]]:
        """Row, key and cause, in the order of the rows."""
        own = [(row.row, row.key, row.cause) for row in self.rows.values()]
        return sorted(set(gather_object(own) if self.accelerator.num_processes > 1 else own))

    def restore(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Take back what `of_all_processes` gave."""
        self.rows = {row: FailedRow(row, key, cause) for row, key, cause in rows}

    def write(self, path: Path) -> None:
        """List them all in a TSV file, if there are any; on all processes, and the first one writes."""
        skipped = self.of_all_processes()
        if self.accelerator.is_main_process and skipped:
            write_atomically(path, b"".join(encode(FailedRow(*row).columns(), path.name) for row in skipped))
