"""Ends work for a client that has left. Knows no route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from starlette.requests import Request
from starlette.types import Receive

from ..errors import NodeError

Result = TypeVar("Result")


async def unless_left(request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
    """Do some work whose answer is sent whole; a client that leaves cancels it.

    Raises what the work raises, and NodeError, which nobody reads, once the client has left.
    """
    done: list[Result] = []
    failed: list[NodeError] = []

    async def note() -> None:
        try:
            done.append(await work())
        except NodeError as error:
            failed.append(error)

    await until_left(request.receive, note)
    if failed:
        raise failed[0]
    if not done:
        raise NodeError("the client left before its answer was complete")
    return done[0]


async def until_left(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work; a client that leaves cancels it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
        await work()
        nursery.cancel_scope.cancel()


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel as soon as the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
