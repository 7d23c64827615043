"""Calls that block (chain, disk), out of the event loop's way. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *values: object, deadline_s: float) -> T:
    """Run a blocking call in a thread; trio.TooSlowError after the deadline, when the thread is
    left behind to end by itself.
    """
    with trio.fail_after(deadline_s):
        return await trio.to_thread.run_sync(call, *values, abandon_on_cancel=True)  # type: ignore[call-arg]  # an old stub of trio
