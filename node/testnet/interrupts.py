"""Runs a program until it ends or a signal asks it to, and lets it clean up either way.

Does not know what the program does.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(program: Callable[[], Awaitable[None]]) -> bool:
    """Run the program; return whether it ended by itself.

    The first signal cancels it. Of several errors, the first is raised.
    """
    try:
        return trio.run(watch, program)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def watch(program: Callable[[], Awaitable[None]]) -> bool:
    """Run the program beside a task that waits for signals."""
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            await program()
            nursery.cancel_scope.cancel()
            return True
    return False


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel at the first signal; ignore later ones, since the way out is bounded."""
    async for _ in signals:
        scope.cancel()


def first_error(error: BaseException) -> BaseException:
    """Return the first error inside nested groups, as nurseries wrap them.

    Hides the others, which `p2p.errors.sole_error` does not: a person at a terminal needs one
    message, a caller that handles errors needs to know that there are several.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
