from __future__ import annotations

import pytest
import trio

from node.answering.answer import Answer
from node.api import CompletionRequest, Delta
from node.errors import BadRequest, NodeError

REQUEST = CompletionRequest("base", "Hello")


async def collect(answer: Answer) -> list[object]:
    return [event async for event in answer]


async def test_a_bug_of_our_own_costs_its_answer_and_is_logged_whole() -> None:
    log: list[str] = []

    async def work(request: CompletionRequest, answer: Answer) -> None:
        answer.put(Delta("so far", (1,)))
        raise OSError("the disk is full")

    async with trio.open_nursery() as nursery:
        answer = Answer(4, log.append)
        nursery.start_soon(answer.run, work, REQUEST)
        assert await answer.__anext__() == Delta("so far", (1,))
        with pytest.raises(NodeError, match="the disk is full"):
            await answer.__anext__()
    assert "Traceback" in log[0]


async def test_a_named_error_is_raised_as_it_is() -> None:
    log: list[str] = []

    async def work(request: CompletionRequest, answer: Answer) -> None:
        raise BadRequest("no")

    async with trio.open_nursery() as nursery:
        answer = Answer(4, log.append)
        nursery.start_soon(answer.run, work, REQUEST)
        with pytest.raises(BadRequest):
            await collect(answer)
    assert log == []
