"""Which validation was the best, and when to wait for a better one no longer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Best:
    """The best validation so far: its step, 0 where there is none, its value and what was said of it.

    Higher is better. stale: how many validations have followed it. latest: the step of the last validation of all.
    """

    step: int = 0
    value: float = -float("inf")
    said: str = ""
    stale: int = 0
    latest: int = 0

    def take(self, step: int, value: float, said: str) -> bool:
        """Note a validation; whether it is the best so far."""
        self.latest = step
        if value > self.value:
            self.step, self.value, self.said, self.stale = step, value, said, 0
            return True
        self.stale += 1
        return False
