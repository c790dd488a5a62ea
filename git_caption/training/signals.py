"""Signals that stop a run: noted while it takes its steps, so that it can save first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from git_caption.pipeline.workers import STOPPING

AGAIN_SECONDS = 1.0  # launchers pass on a signal that the terminal has sent already; people take longer


@contextmanager
def noted_signals() -> Iterator[list[str]]:
    """Inside, stopping signals are noted in the list; Ctrl-C once more, a second later or more, raises at once."""
    noted: list[str] = []
    asked: float | None = None
    if threading.current_thread() is not threading.main_thread():  # handlers can be set there only
        yield noted
        return

    def note(number: int, _: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if number == signal.SIGINT and asked is not None and now - asked > AGAIN_SECONDS:
            raise KeyboardInterrupt
        asked = now if asked is None else asked
        noted.append(signal.Signals(number).name)

    earlier = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield noted
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def leave_signals_to_the_main_process(_: int) -> None:
    """Run in each worker process: what stops a run may be sent to all its processes, and one of them answers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
