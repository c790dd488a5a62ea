"""What a run tells: a line while it goes on, and a table by cause at its end."""

from __future__ import annotations

import sys
import time
from collections import Counter

from git_caption.downloads.status import OK

SHOWN = 3  # causes in the line
EVERY_SECONDS = 1.0
EVERY_LOGGED_SECONDS = 60.0

# Shares of CC3M's images that others got, the latest published that could be found; none tells causes.
SEEN = {
    "train": (
        "about 70 %",
        "January 2024: github.com/rom1504/img2dataset/issues/391; 87.6 % in December 2021: "
        "huggingface.co/datasets/pixparse/cc3m-wds",
    ),
    "val": ("84.9 %", "December 2023: huggingface.co/datasets/pixparse/cc3m-wds"),
}


class Progress:
    """The line on a terminal, renewed; elsewhere, as in the log of a batch job, a line a minute."""

    def __init__(self, name: str, todo: int) -> None:
        self._name = name
        self._todo = todo
        self._causes: Counter[str] = Counter()
        self._bytes = 0
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every = EVERY_SECONDS if self._terminal else EVERY_LOGGED_SECONDS

    def add(self, cause: str, size: int) -> None:
        """Count an address whose status row is on the disk, and the bytes that came."""
        self._causes[cause] += 1
        self._bytes += size
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            line = self.line(now - self._started)
            if self._terminal:
                print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            else:
                print(line, file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What has been done in so many seconds, and how long the rest will take."""
        done = self._causes.total()
        failed = Counter({cause: count for cause, count in self._causes.items() if cause != OK})
        causes = ", ".join(f"{cause} {count}" for cause, count in failed.most_common(SHOWN))
        images, left = self._causes[OK] / seconds, max(0, self._todo - done) * seconds / max(1, done)
        return (
            f"{self._name} {done}/{self._todo}  ok {self._causes[OK]}  failed {failed.total()}"
            f"{f' ({causes})' if causes else ''}  {images:.0f} images/s  {self._bytes / seconds / 1e6:.1f} MB/s  "
            f"{clock(left)} left"
        )

    def close(self) -> None:
        """Remove the line."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def table(name: str, causes: Counter[str], size: int, *, cc3m: bool) -> str:
    """Rows by cause; of CC3M beside what others got."""
    total = causes.total()
    seen, source = SEEN.get(name, ("", "")) if cc3m else ("", "")
    lines = [f"{name}: {total} addresses, {causes[OK]} images, {_size(size)}"]
    if seen:
        lines.append(f"  {'cause':<16}{'rows':>10}{'share':>10}  others")
    for cause, count in sorted(causes.items(), key=lambda item: (item[0] != OK, -item[1], item[0])):
        others = f"  {seen}" if seen and cause == OK else ""
        lines.append(f"  {cause:<16}{count:>10}{100 * count / max(1, total):>8.1f} %{others}")
    if seen:
        lines.append(f"  others: {source}")
    if causes["private_address"]:
        lines.append("  private_address: refused; where they are meant: --retry private_address --allow_private")
    return "\n".join(lines)
