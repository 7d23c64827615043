"""Many who want the same at once look it up once; nobody depends on another one's patience."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.together import Together

MANY = 100


class Slow:
    """Something that takes a second to look up, and can be made to fail."""

    def __init__(self) -> None:
        self.lookups = 0
        self.fails = False

    async def look_up(self) -> int:
        self.lookups += 1
        await trio.sleep(1.0)
        if self.fails:
            raise LookupError("nobody has it")
        return self.lookups


async def test_what_many_want_at_once_is_looked_up_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    together = Together[str, int]()
    slow = Slow()
    found: list[int] = []

    async def want() -> None:
        found.append(await together.get("law", slow.look_up))

    async with trio.open_nursery() as nursery:
        for _ in range(MANY):
            nursery.start_soon(want)
    assert found == [1] * MANY
    assert await together.get("law", slow.look_up) == 2, "nothing is remembered"


async def test_who_leaves_takes_no_answer_from_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    together = Together[str, int]()
    slow = Slow()

    async def leave() -> None:
        with trio.move_on_after(0.5):
            await together.get("law", slow.look_up)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        assert await together.get("law", slow.look_up) == 2
    assert trio.current_time() == 1.5


async def test_a_failure_is_everybodys_own(autojump_clock: trio.testing.MockClock) -> None:
    together = Together[str, int]()
    slow = Slow()
    slow.fails = True
    failed = 0

    async def want() -> None:
        nonlocal failed
        with pytest.raises(LookupError):
            await together.get("law", slow.look_up)
        failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(want)
    assert (failed, slow.lookups) == (3, 3)
    assert trio.current_time() == 2.0, "those who waited looked at the same time"
