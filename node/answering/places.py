"""How many answers for strangers are made at once here: what this node announces, and keeps to.

    a place is free ──▶ the answer is made ──▶ the next in the line
    all are taken   ──▶ it waits, and its client hears that

Counts; knows no engine and no client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from engine.messages import Ready

ON_PROCESSORS = 64
ON_A_DEVICE = 256
"""How many an engine runs at once unless it is told otherwise (engine/config.py)."""


def usual_answers(ready: Ready | None) -> int:
    """Return how many answers at once are announced where the operator says nothing."""
    return ON_A_DEVICE if ready is not None and not ready.threads else ON_PROCESSORS


class Places:
    """Places for answers; `announced` of them now, which may change while answers are made."""

    def __init__(self, announces: Callable[[], int]) -> None:
        self._announces = announces
        self._limiter = trio.CapacityLimiter(announces())

    @property
    def announced(self) -> int:
        """Return how many answers this node says that it makes at once."""
        return self._announces()

    @property
    def waiting(self) -> int:
        """Return how many answers wait for a place."""
        return self._limiter.statistics().tasks_waiting

    async def take(self, holder: object) -> None:
        """Wait for a place, first come, first served, and take it for a holder that has none."""
        self._limiter.total_tokens = self.announced
        await self._limiter.acquire_on_behalf_of(holder)

    def leave(self, holder: object) -> None:
        """Give a holder's place to the next; harmless for one that has none."""
        if holder in self._limiter.statistics().borrowers:
            self._limiter.release_on_behalf_of(holder)

    @asynccontextmanager
    async def held(self, holder: object) -> AsyncIterator[None]:
        """Hold a place until the block ends."""
        await self.take(holder)
        try:
            yield
        finally:
            self.leave(holder)
