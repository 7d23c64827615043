"""A node makes as many answers at once as it announces; the others wait in their order."""

from __future__ import annotations

import trio
import trio.testing

from engine.messages import Ready
from node.answering.places import ON_A_DEVICE, ON_PROCESSORS, Places, usual_answers


async def test_more_than_are_announced_wait_and_come_in_their_order() -> None:
    announced = 2
    places = Places(lambda: announced)
    made: list[int] = []
    ends = [trio.Event() for _ in range(4)]

    async def answer(number: int) -> None:
        async with places.held(number):
            made.append(number)
            await ends[number].wait()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(answer, number)
            await trio.testing.wait_all_tasks_blocked()
        assert made == [0, 1]
        assert (places.announced, places.waiting) == (2, 2)
        ends[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert made == [0, 1, 2]
        announced = 4
        await places.take("one more")  # whoever comes next sees what is announced now
        assert places.waiting == 0
        places.leave("one more")
        places.leave("one more")
        for end in ends:
            end.set()


def test_an_engine_s_own_number_is_announced_where_the_operator_says_none() -> None:
    ready = Ready(bytes(32), "bfloat16", 10, 10, 10, 16, threads=2, load_ms=0.0)
    assert usual_answers(None) == usual_answers(ready) == ON_PROCESSORS
    on_device = Ready(bytes(32), "bfloat16", 10, 10, 10, 16, threads=0, load_ms=0.0)
    assert usual_answers(on_device) == ON_A_DEVICE
