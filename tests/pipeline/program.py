"""A run to be killed, stopped and resumed from outside: rows are numbers, the model gives their squares.

python program.py OUT ROWS WORKERS DELAY LOG [fault]: appends to LOG the first row of each chunk computed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from git_caption.errors import GitCaptionError
from git_caption.pipeline.run import run
from git_caption.samples.sample import Failure


class Numbers:
    """Rows 0, 1, ...; every hundredth fails. `fault` names what one row does to the worker that reads it, once."""

    def __init__(self, rows: int, fault: str = "", once: Path | None = None) -> None:
        self.rows = rows
        self.fault = fault
        self.once = once
        self.inputs: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return self.rows

    def read(self, row: int) -> int | Failure:
        if row == 600 and self.once is not None and not self.once.exists():
            self.once.touch()
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(1000)
        if row % 100 == 99:
            return Failure(f"key{row}", f"numbers:{row + 1}: ends in 99", [[f"key{row}", ""]])
        return row


def main() -> int:
    out, rows, workers, delay, log, *fault = sys.argv[1:]

    def square(numbers: list[int]) -> list[list[list[str]]]:
        with open(log, "a") as file:
            file.write(f"{numbers[0]}\n")
        time.sleep(float(delay))
        return [[[f"key{number}", str(number**2)]] for number in numbers]

    source = Numbers(int(rows), fault[0] if fault else "", Path(log + ".once"))
    try:
        print(run(source, square, out, {"power": 2}, num_workers=int(workers)))
    except GitCaptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
