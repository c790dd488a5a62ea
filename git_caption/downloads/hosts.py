"""How many requests run at a time, over all and at one host, and since when a host may be asked again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many at a time, in the order in which they came; quick also with thousands waiting."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a turn."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # whoever leaves hands on its own
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the turn back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _Host:
    def __init__(self, per_host: int) -> None:
        self.turns = Turns(per_host)
        self.not_before = 0.0  # by the loop's clock
        self.inside = 0  # tasks that hold or wait for a turn: at 0 the host is forgotten


class Hosts:
    """Turns at hosts; a host without tasks takes no memory."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Inside, this task is one of the `per_host` that ask the host."""
        loop = asyncio.get_running_loop()
        host = self._host(name)
        host.inside += 1
        try:
            await host.turns.enter()
            try:
                while (wait := host.not_before - loop.time()) > 0:
                    await asyncio.sleep(wait)
                yield
            finally:
                host.turns.leave()
        finally:
            host.inside -= 1
            if not host.inside and host.not_before <= loop.time():
                self._hosts.pop(name, None)

    def hold_back(self, name: str, seconds: float) -> None:
        """Ask the host nothing for so long: it said so."""
        host = self._host(name)
        host.not_before = max(host.not_before, asyncio.get_running_loop().time() + seconds)

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(self._per_host)
        return self._hosts[name]
