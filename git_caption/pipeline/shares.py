"""Which chunks of an output this process computes: all that are missing, or its share beside other processes."""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.params.differences import differences
from git_caption.pipeline.chunks import Parts
from git_caption.tsv.rows import dumps

LOOK_SECONDS = 5.0  # between looks for what others do not come to: one may tell what it claimed after we looked


class Share(Protocol):
    """What a run asks before and after each chunk."""

    def numbers(self) -> Iterator[int | None]:
        """Chunks to read, in order; None where there is no more before those are computed."""

    def begin(self, number: int) -> bool:
        """Whether a chunk that was read is to be computed here."""

    def is_open(self) -> bool:
        """Whether what was computed may still be committed."""

    def committed(self, number: int, failures: int, halved: int) -> int:
        """Takes note of a chunk, of the rows in it that failed and of all batches halved so far.

        Gives the number of all rows that failed, where there are some in this chunk.
        """

    def rows(self) -> int:
        """Rows committed so far, by any process and any run."""

    def halved(self) -> int:
        """Batches halved, by all processes."""

    def computed(self) -> tuple[int, ...]:
        """Rows that each process computed; nothing where there is only one."""

    def found_elsewhere(self) -> dict[str, Any] | None:
        """What the process that joins the parts gave to `finish`, once it did; None in that process."""

    def finish(self, found: Mapping[str, Any]) -> None:
        """The output is there."""


class Whole:
    """The share of a process by itself."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._rows = sum(len(parts.rows_of(number)) for number in parts.committed)
        self._halved = 0

    def numbers(self) -> Iterator[int]:
        """All that is missing."""
        return (number for number in range(len(self.parts)) if number not in self.parts.committed)

    def begin(self, number: int) -> bool:
        """Always."""
        return True

    def is_open(self) -> bool:
        """Always."""
        return True

    def committed(self, number: int, failures: int, halved: int) -> int:
        """Counts the rows; failures are the parts' own."""
        self._rows += len(self.parts.rows_of(number))
        self._halved = halved
        return len(self.parts.failures)

    def rows(self) -> int:
        """Those of an earlier run among them."""
        return self._rows

    def halved(self) -> int:
        """Its own."""
        return self._halved

    def computed(self) -> tuple[int, ...]:
        """Nothing."""
        return ()

    def found_elsewhere(self) -> None:
        """Nothing."""

    def finish(self, found: Mapping[str, Any]) -> None:
        """Nobody waits for it."""


class Claimed:
    """A share of chunks that are claimed one by one from a counter; no process has to wait for a slow or dead one.

    A chunk that was claimed is read, and computed by who is first to add to its `begun/N`: the process itself, or one
    that has nothing left to do. What a process computes when it dies is computed again by another, and what was lost
    between two entries by rank 0, which looks at the parts before it joins them. A chunk may be computed twice where a
    process was only taken for dead: both give the same bytes.

    The store further holds `start`, what all have to know first; `claimed`, the counter; of each rank R `ahead/R`, the
    chunks it has claimed and not begun, `doing/R`, the one it computes, and `tally/R`, its rows and halved batches;
    `failures`; `idle`, how often a process had nothing left to do; and `finished`, what rank 0 found in the end.
    """

    def __init__(
        self, parts: Parts, ranks: processes.Ranks, settings: Mapping[str, Any], check: Callable[[], None]
    ) -> None:
        """Rank 0 says what there is to do, and the others wait for that.

        check: called again and again while there is something to wait for. Raises UsageError if this process would
        compute something else than rank 0.
        """
        self.parts = parts
        self.ranks = ranks
        self.store = ranks.board()
        self.check = check
        self._ahead: list[int] = []
        self._claimed: set[int] = set()  # from the counter, and not committed
        self._doing: int | None = None
        self._tally = [0, 0]
        if ranks.rank == 0:
            self._start(settings)
        else:
            self._wait_until(lambda: self.store.check(["start"]))
        start = json.loads(self.store.get("start"))
        settings = json.loads(dumps(settings))
        if start["settings"] != settings:
            raise UsageError(
                f"rank {ranks.rank} would compute with other settings than rank 0 "
                f"({differences(start['settings'], settings)}, of rank 0 and this one): processes that share an output "
                "need the same files and the same kind of device"
            )
        self._spans: list[list[int]] = start["missing"]  # as [first, stop]
        self._before: list[int] = list(accumulate((stop - first for first, stop in self._spans), initial=0))
        self._rows_before: int = start["rows"]

    def _start(self, settings: Mapping[str, Any]) -> None:
        for rank in range(self.ranks.size):
            self.store.set(f"ahead/{rank}", "[]")
            self.store.set(f"doing/{rank}", "")
            self.store.set(f"tally/{rank}", "[0,0]")
        self.store.add("failures", len(self.parts.failures))
        rows = sum(len(self.parts.rows_of(number)) for number in self.parts.committed)
        start = {"settings": settings, "missing": _spans(self.parts.missing()), "rows": rows}
        self.store.set("start", dumps(start))

    def numbers(self) -> Iterator[int | None]:
        """What the counter gives; then, chunk by chunk, what others do not come to, until all is committed."""
        while (number := self._next()) is not None:
            self._ahead.append(number)
            self._claimed.add(number)
            self._put_ahead()
            yield number
        while True:
            while self._ahead or self._doing is not None:
                yield None
            if (number := self._left_by_others()) is None:
                return
            yield number

    def begin(self, number: int) -> bool:
        """Whether no other process took it over."""
        if self._doing == number:
            return True
        mine = self._begun(number, f"begun/{number}")
        if not mine:
            self._claimed.remove(number)
        self._ahead.remove(number)
        self._put_ahead()
        return mine

    def is_open(self) -> bool:
        """Whether rank 0 has not joined the parts without this process, which it took for dead."""
        return not self.store.check(["finished"])

    def committed(self, number: int, failures: int, halved: int) -> int:
        """Adds to what all processes have."""
        self._tally = [self._tally[0] + len(self.parts.rows_of(number)), halved]
        self.store.set(f"tally/{self.ranks.rank}", dumps(self._tally))
        self._do(None)
        if number in self._claimed:  # so that the store does not grow with the output
            self._claimed.remove(number)
            self.store.delete_key(f"begun/{number}")
        return self.store.add("failures", failures) if failures else 0

    def rows(self) -> int:
        """Those of an earlier run among them."""
        return self._rows_before + sum(self.computed())

    def halved(self) -> int:
        """In this run; those of a process that died are as it last told."""
        return sum(halved for _, halved in self._tallies())

    def computed(self) -> tuple[int, ...]:
        """In this run, by rank."""
        return tuple(rows for rows, _ in self._tallies())

    def _tallies(self) -> list[list[int]]:
        return [json.loads(tally) for tally in self._of("tally", range(self.ranks.size))]

    def _of(self, what: str, ranks: Sequence[int]) -> list[bytes]:
        """What the store holds of each of these ranks, asked for at once: there may be hundreds."""
        return self.store.multi_get([f"{what}/{rank}" for rank in ranks]) if ranks else []

    def found_elsewhere(self) -> dict[str, Any] | None:
        """What rank 0 found; waits for it. None on rank 0."""
        if self.ranks.rank == 0:
            return None
        self._wait_until(lambda: self.store.check(["finished"]))
        found: dict[str, Any] = json.loads(self.store.get("finished"))
        return found

    def finish(self, found: Mapping[str, Any]) -> None:
        """Lets the others go."""
        self.store.set("finished", dumps(found))
        self.ranks.announce()

    def _next(self) -> int | None:
        index = self.store.add("claimed", 1) - 1
        if index >= self._before[-1]:
            return None
        span = bisect_right(self._before, index) - 1
        return self._spans[span][0] + index - self._before[span]

    def _left_by_others(self) -> int | None:
        """A chunk that another process does not come to, marked as begun; None once all are committed."""
        self.store.add("idle", 1)
        while True:
            seen = self._news()
            if self.store.check(["finished"]):
                return None
            if (number := self._taken_over()) is not None:
                return number
            if self.ranks.rank == 0 and self._others_are_idle():
                return self._forgotten()
            self._wait_for_other(seen)

    def _taken_over(self) -> int | None:
        others = [(self.ranks.rank + step) % self.ranks.size for step in range(1, self.ranks.size)]
        for ahead in self._of("ahead", others):  # each process begins with another one
            for number in reversed(json.loads(ahead)):
                if self._begun(number, f"begun/{number}"):
                    return int(number)
        dead = self.ranks.dead()
        dead_others = [other for other in others if other in dead]
        for other, doing in zip(dead_others, self._of("doing", dead_others), strict=True):
            left = doing and not self.parts.has(int(doing))
            if left and self._begun(int(doing), f"again/{int(doing)}/{other}"):
                return int(doing)
        return None

    def _others_are_idle(self) -> bool:
        dead = self.ranks.dead()
        others = [rank for rank in range(1, self.ranks.size) if rank not in dead]
        return not any(self._of("doing", others)) and all(
            json.loads(ahead) == [] for ahead in self._of("ahead", others)
        )

    def _forgotten(self) -> int | None:
        self.parts.gather()
        missing = self.parts.missing()
        if not missing:
            return None
        self._do(missing[0])
        return missing[0]

    def _begun(self, number: int, mark: str) -> bool:
        """Whether this process is the first to make the mark; `doing` is told before, so that nothing is lost."""
        self._do(number)
        if self.store.add(mark, 1) == 1:
            return True
        self._do(None)
        return False

    def _do(self, number: int | None) -> None:
        self._doing = number
        self.store.set(f"doing/{self.ranks.rank}", "" if number is None else str(number))

    def _put_ahead(self) -> None:
        self.store.set(f"ahead/{self.ranks.rank}", dumps(self._ahead))

    def _news(self) -> tuple[int, int]:
        """Differs once there may be something to do: a process died, or, for rank 0, has nothing left to do."""
        return self.ranks.news(), self.store.add("idle", 0) if self.ranks.rank == 0 else 0

    def _wait_for_other(self, seen: tuple[int, int]) -> None:
        latest = time.monotonic() + LOOK_SECONDS
        self._wait_until(lambda: self._news() != seen or time.monotonic() > latest)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.check()
            time.sleep(processes.POLL_SECONDS)


def _spans(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as [first, stop] of each run of consecutive ones."""
    if not numbers:
        return []
    breaks = [place for place, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1]
    bounds = [0, *breaks, len(numbers)]
    return [[numbers[first], numbers[stop - 1] + 1] for first, stop in pairwise(bounds)]
