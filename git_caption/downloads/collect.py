"""Rows to status rows and images: fetched side by side, examined, and put on the disk in batches."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from git_caption.downloads.examine import STOPPING, Examined, Examiners
from git_caption.downloads.fetch import Fetched, Fetcher
from git_caption.downloads.hosts import Turns
from git_caption.downloads.list import ListRow
from git_caption.downloads.report import Progress
from git_caption.downloads.status import OK, StatusLog, StatusRow
from git_caption.downloads.store import Store
from git_caption.downloads.survey import Survey
from git_caption.errors import Stopped
from git_caption.params.download import DownloadParams

AHEAD = 8  # rows begun for each that may be in flight: others go on while a host is waited for
SWITCH_SECONDS = 0.0005
ROWS_AT_ONCE = 1000  # of a list read before anything else gets its turn


@dataclass(frozen=True)
class Collection:
    """What rows go through, and where they end."""

    params: DownloadParams
    survey: Survey
    store: Store
    log: StatusLog
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Ended:
    """An address fetched and examined, which is still in flight."""

    row: ListRow
    fetched: Fetched
    examined: Examined | None

    def status(self) -> StatusRow:
        """Its status row."""
        fetched, examined = self.fetched, self.examined
        known = (self.row.key, self.row.url, fetched.status)
        if examined is None or examined.cause != OK:
            return StatusRow(*known, fetched.cause if examined is None else examined.cause, seconds=fetched.seconds)
        image = self.image or b""
        return StatusRow(
            *known,
            OK,
            len(image),
            examined.sha256 or hashlib.sha256(image).hexdigest(),
            examined.width,
            examined.height,
            fetched.seconds,
            examined.hash,
        )

    @property
    def image(self) -> bytes | None:
        """What is written; None where there is no image."""
        if self.examined is None or self.examined.cause != OK:
            return None
        return self.fetched.body if self.examined.image is None else self.examined.image


def collect(rows: Iterator[ListRow], into: Collection) -> None:
    """Fetch rows until there are no more.

    Raises:
        Stopped: by a signal; what had come is on the disk.
        JobFailed: this machine cannot go on; likewise.
        OSError: the disk refuses.
    """
    interval = sys.getswitchinterval()
    # Threads that write files come back from each system call to wait for the thread that fetches: not for 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        asyncio.run(_collect(rows, into))
    finally:
        sys.setswitchinterval(interval)


async def _collect(rows: Iterator[ListRow], into: Collection) -> None:
    stopped: list[str] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        stopped.append(number.name)
        if task is not None:
            task.cancel()

    earlier = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        loop.add_signal_handler(number, stop, number)
    try:
        async with Fetcher(into.params.network, into.params.pictures.max_bytes) as fetcher:
            await _Line(into, fetcher).run(rows)
    except asyncio.CancelledError:
        if not stopped:
            raise
        raise Stopped(f"stopped by {stopped[0]} with what had come saved: the same command goes on") from None
    finally:
        for number, handler in earlier.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class _Line:
    """The way of rows: begun, fetched, examined, written.

    A request counts as in flight until its status row is on the disk, so that a kill repeats no more than that.
    """

    def __init__(self, into: Collection, fetcher: Fetcher) -> None:
        self._into = into
        self._fetcher = fetcher
        self._examiners = Examiners(into.params.pictures)
        self._disk = ThreadPoolExecutor(1, "disk")
        self._begun = Turns(AHEAD * into.params.network.in_flight)
        self._ended: list[_Ended] = []
        self._news = asyncio.Event()

    async def run(self, rows: Iterator[ListRow]) -> None:
        try:
            async with asyncio.TaskGroup() as writing:
                writer = writing.create_task(self._write_as_they_end())
                async with asyncio.TaskGroup() as fetching:
                    await self._begin(rows, fetching)
                writer.cancel()
        except* Exception as group:
            raise _first(group) from None
        finally:
            self._disk.submit(self._write, self._ended).result()
            self._disk.shutdown()
            self._examiners.close()

    async def _begin(self, rows: Iterator[ListRow], fetching: asyncio.TaskGroup) -> None:
        for number, row in enumerate(rows):
            if number % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            await self._begun.enter()
            fetching.create_task(self._row(row))

    async def _row(self, row: ListRow) -> None:
        fetched = await self._fetcher.fetch(row.url)
        examined = await self._examiners.examine(fetched.body) if fetched.cause == OK else None
        self._ended.append(_Ended(row, fetched, examined))
        self._news.set()

    async def _write_as_they_end(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._ended = self._ended, []
            # Written even where this task is cancelled meanwhile.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, self._write, batch))
            for ended in batch:
                self._fetcher.release(ended.fetched)
                self._begun.leave()

    def _write(self, batch: list[_Ended]) -> None:
        """Images first: a status row says that the image is there."""
        if not batch:
            return
        images = [
            (number, ended.image)
            for ended in batch
            for number in (ended.row.number, *self._into.survey.again(ended.row.number))
        ]
        self._into.store.put(images)
        rows = [ended.status() for ended in batch]
        self._into.log.append(rows)
        for ended, row in zip(batch, rows, strict=True):
            self._into.progress.add(row.cause, len(ended.fetched.body))


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error in nested groups."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
