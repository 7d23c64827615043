"""Runs blocking calls (chain, disk) in threads, off the event loop. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *values: object, deadline_s: float) -> T:
    """Run a blocking call in a thread.

    Raises trio.TooSlowError after the deadline; the thread is then left to end by itself.
    """
    with trio.fail_after(deadline_s):
        return await trio.to_thread.run_sync(call, *values, abandon_on_cancel=True)  # type: ignore[call-arg]  # an old stub of trio
