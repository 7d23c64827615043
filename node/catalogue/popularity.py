"""Counts how many peers hold each adapter of a listing, within bounded time, and remembers the
counts for a while.

Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.peers import PeerAddress

MAX_COUNTED = 32  # adapters looked up for one listing
LOOKUPS_AT_ONCE = 8
COUNT_DEADLINE_S = 2.0  # for all of them together
REMEMBERED_S = 30.0
MAX_REMEMBERED = 4096


class Popularity:
    """Counts of providers, not counting this node. `find` asks the network about one adapter."""

    def __init__(
        self,
        find: Callable[[Cid], Awaitable[list[PeerAddress]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._clock = clock
        self._counts: dict[Cid, tuple[int, float]] = {}

    async def count(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """Return what is known of these after at most COUNT_DEADLINE_S; 0 where nobody answered in
        time.
        """
        now = self._clock()
        stale = [
            cid
            for cid in cids
            if cid not in self._counts or self._counts[cid][1] < now - REMEMBERED_S
        ]
        if len(self._counts) > MAX_REMEMBERED:
            self._counts.clear()
        limit = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        with trio.move_on_after(COUNT_DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for cid in stale[:MAX_COUNTED]:
                    nursery.start_soon(self._look_up, cid, limit)
        return {cid: self._counts[cid][0] if cid in self._counts else 0 for cid in cids}

    async def _look_up(self, cid: Cid, limit: trio.CapacityLimiter) -> None:
        async with limit:
            try:
                providers = await self._find(cid)
            except P2pError:
                return
            self._counts[cid] = (len(providers), self._clock())
