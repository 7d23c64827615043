"""Runs a program until it ends or a signal asks it to, and lets it clean up either way."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(program: Callable[[], Awaitable[None]]) -> bool:
    """Whether it ended by itself.

    The first signal cancels it; its errors come as the one that was first.
    """
    try:
        return trio.run(watch, program)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def watch(program: Callable[[], Awaitable[None]]) -> bool:
    """The program beside a task that waits for signals."""
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            await program()
            nursery.cancel_scope.cancel()
            return True
    return False


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel once; later signals are heard and change nothing: the way out is bounded."""
    async for _ in signals:
        scope.cancel()


def first_error(error: BaseException) -> BaseException:
    """What nurseries wrapped; of several errors the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
