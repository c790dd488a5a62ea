from __future__ import annotations

import asyncio
import time

from git_caption.downloads.hosts import Hosts, Turns


def test_turns_come_in_order_and_are_handed_on_by_who_gives_up() -> None:
    async def story() -> list[int]:
        turns, order = Turns(1), []
        await turns.enter()

        async def one(number: int) -> None:
            await turns.enter()
            order.append(number)
            turns.leave()

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        turns.leave()  # to the first, which is given up at the same moment
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(turns.enter(), 1)  # none is lost
        return order

    assert asyncio.run(story()) == [2, 3, 4]


def test_a_host_is_forgotten_with_its_last_task() -> None:
    async def story() -> list[int]:
        hosts, sizes = Hosts(2), []
        async with hosts.turn("a"), hosts.turn("b"):
            sizes.append(len(hosts))
        return [*sizes, len(hosts)]

    assert asyncio.run(story()) == [2, 0]


def test_a_host_that_asked_to_wait_is_left_alone_and_others_are_not() -> None:
    async def story() -> dict[str, float]:
        hosts, started, entered = Hosts(2), time.monotonic(), {}
        hosts.hold_back("a", 0.3)

        async def one(name: str) -> None:
            async with hosts.turn(name):
                entered[name] = time.monotonic() - started

        await asyncio.gather(one("a"), one("b"))
        return entered

    entered = asyncio.run(story())
    assert entered["a"] >= 0.3
    assert entered["b"] < 0.3
