"""The processes of a run that have met in one store: signs of life, and an end that all of them share."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

BEAT_SECONDS = 1.0
DEAD_SECONDS = 45.0  # without a beat
END_SECONDS = 30.0  # that processes wait for one another once one has failed
SILENT_SECONDS = 8.0  # that rank 0 may be without a beat then: torchrun's store outlives it
POLL_SECONDS = 0.1


class Store(Protocol):
    """What is used of torch.distributed's stores; each call is one step for all processes."""

    def set(self, key: str, value: str) -> None:
        """Put a value there."""

    def get(self, key: str) -> bytes:
        """The value, once it is there."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values, once they are there."""

    def check(self, keys: list[str]) -> bool:
        """Whether the keys are there."""

    def add(self, key: str, value: int) -> int:
        """The sum after adding to a number, which begins with 0."""

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Put a value in place of the one expected, "" for none."""

    def delete_key(self, key: str) -> bool:
        """Whether there was one to remove."""


class Ranks:
    """The processes of a run, met in one store: that of torchrun's agent, else one that rank 0 holds.

    A thread shows every `BEAT_SECONDS` that this process lives. Once another one failed, or the store is gone, it stops
    this one as SIGTERM does; `end` then knows why. On rank 0 it also looks for processes that died.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._boards = 0
        self._trouble: tuple[int, str] | None = None  # exit code and message of what ends all processes
        self._lost = False
        self._over = threading.Event()
        if rank == 0:
            store.set("dead", "[]")
        store.add(f"beat/{rank}", 1)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def board(self) -> Store:
        """A store for the next thing that all processes do together; the same one on all of them."""
        self._boards += 1
        return prefixed(self._store, f"board/{self._boards}")

    def dead(self) -> set[int]:
        """Which processes show no life; one that was held up may come back."""
        return set(json.loads(self._store.get("dead")))

    def announce(self) -> None:
        """Change `news`."""
        self._store.add("news", 1)

    def news(self) -> int:
        """A number that grows with each announcement and each change of `dead`."""
        return self._store.add("news", 0)

    def end(self, code: int, message: str, show: Callable[[str], None]) -> int:
        """End together: see the function `end`."""
        try:
            if code and self._trouble is None:
                self._store.compare_set("failed", "", json.dumps([code, message]))
        except RuntimeError:
            self._lose()
        code, message = self._trouble or (code, message)
        if message and (self.rank == 0 or self._lost or not self._told()):
            show(message)
        with suppress(RuntimeError):  # gone meanwhile: all has been said
            if self.rank == 0:
                self._store.set("told", "")
                self._see_off(code)
            else:
                self._rest()
                self._store.set(f"left/{self.rank}", "")
        self._rest()
        return code

    def part(self) -> None:
        """Each goes on by itself; nothing shows any longer that this process lives."""
        self._rest()

    def _told(self) -> bool:
        """Whether rank 0 has shown the failure that it knows of. Where it shows no life that is not waited for long."""
        started = heard = time.monotonic()
        beat = 0
        with suppress(RuntimeError):
            while not self._store.check(["told"]):
                if (latest := self._store.add("beat/0", 0)) != beat:
                    beat, heard = latest, time.monotonic()
                if time.monotonic() > min(started + END_SECONDS, heard + SILENT_SECONDS):
                    return False
                time.sleep(POLL_SECONDS)
        return True

    def _see_off(self, code: int) -> None:
        """Wait for the others, as the store may end with this process; after a failure not for long."""
        latest = time.monotonic() + END_SECONDS
        for number in range(1, self.size):
            while not self._store.check([f"left/{number}"]) and number not in self.dead():
                if code and time.monotonic() > latest:
                    return
                time.sleep(POLL_SECONDS)

    def _rest(self) -> None:
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        beats: dict[int, tuple[int, float]] = {}
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(f"beat/{self.rank}", 1)
                if self._trouble is None and self._store.check(["failed"]):
                    code, message = json.loads(self._store.get("failed"))
                    self._trouble = code, message
                    _stop_main_thread()
                if self.rank == 0:
                    self._look_for_dead(beats)
            except RuntimeError:
                self._lose()
                _stop_main_thread()
                return

    def _lose(self) -> None:
        if self._trouble is None:
            self._lost = True
            self._trouble = (
                1,
                f"rank {self.rank} of {self.size} lost the others, for rank 0 has ended, or the torchrun that started "
                "it; committed chunks are kept: run the same command again to go on",
            )

    def _look_for_dead(self, beats: dict[int, tuple[int, float]]) -> None:
        """beats: the last new one of each process, and when it was seen."""
        now = time.monotonic()
        for number in range(self.size):
            beat = self._store.add(f"beat/{number}", 0)
            if beat != beats.get(number, (-1, now))[0]:
                beats[number] = beat, now
        found = {number for number, (_, seen) in beats.items() if now - seen > DEAD_SECONDS}
        if found != self.dead():
            self._store.set("dead", json.dumps(sorted(found)))
            self.announce()


def _stop_main_thread() -> None:
    """SIGTERM, also in the middle of a system call; where nothing handles it the command has ended by itself."""
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def prefixed(store: Any, name: str) -> Store:
    """What is put into it has names of its own in the store."""
    from torch.distributed.distributed_c10d import PrefixStore

    part: Store = PrefixStore(name, store)
    return part
