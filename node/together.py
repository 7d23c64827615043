"""Has one task look something up for all that want the same meanwhile. Decides nothing.

A hundred requests that come while a look-up takes a second wait for that one; each with a look-up
of its own, all of them would take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Running(Generic[V]):
    """One look-up; `found` stays empty where it failed or was left."""

    found: list[V] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)


class Together(Generic[K, V]):
    """Look-ups that are under way, by what is looked up."""

    def __init__(self) -> None:
        self._running: dict[K, _Running[V]] = {}

    async def get(self, key: K, look_up: Callable[[], Awaitable[V]]) -> V:
        """Return what `look_up` returns, or what the one that is under way does. Where that one
        fails or is left, everybody looks for himself. Raises what `look_up` does.
        """
        running = self._running.get(key)
        if running is not None:
            await running.over.wait()
            return running.found[0] if running.found else await look_up()
        running = self._running[key] = _Running()
        try:
            running.found.append(await look_up())
            return running.found[0]
        finally:
            del self._running[key]
            running.over.set()
