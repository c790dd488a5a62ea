"""How many requests one host gets at a time, and since when it may be asked again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class _Host:
    running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    not_before: float = 0.0  # by the loop's clock
    inside: int = 0  # tasks that hold or wait for a turn: at 0 the host is forgotten


class Hosts:
    """Turns at hosts, in the order in which they were asked for; a host without tasks takes no memory."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Inside, this task is one of the `per_host` that ask the host."""
        host = self._hosts.setdefault(name, _Host())
        host.inside += 1
        try:
            await self._enter(host)
            try:
                yield
            finally:
                self._leave(host)
        finally:
            host.inside -= 1
            if not host.inside and host.not_before <= asyncio.get_running_loop().time():
                self._hosts.pop(name, None)

    def hold_back(self, name: str, seconds: float) -> None:
        """Ask the host nothing for so long: it said so."""
        host = self._hosts.setdefault(name, _Host())
        host.not_before = max(host.not_before, asyncio.get_running_loop().time() + seconds)

    async def _enter(self, host: _Host) -> None:
        if host.running >= self._per_host:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            host.waiting.append(turn)
            try:
                await turn  # whoever left gave its place to us
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(host)
                raise
        else:
            host.running += 1
        try:
            while (wait := host.not_before - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self._leave(host)
            raise

    def _leave(self, host: _Host) -> None:
        while host.waiting:
            turn = host.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        host.running -= 1
