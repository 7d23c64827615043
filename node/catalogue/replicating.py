"""Fetches ahead an adapter that many ask for and few hold, so that it survives its holders.

Decides when: one look at a time, at a random moment of each interval, so that not all nodes fetch
the same at once; nothing while answers run; no faster than the whole place for guests in FILLED_S.
Who wants what is demand.py's; what is fetched is a guest as any other (holding.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import trio

from p2p.blocks.rate import Rate
from p2p.cid import Cid
from p2p.errors import P2pError

from ..errors import AdapterError, EngineError, NoProvider
from ..telemetry import Telemetry
from .demand import Demand

REPLICAS = 3  # nodes that hold an adapter are enough
MAX_LOOKED_AT = 4  # adapters, at one look
QUIET_S = 1.0  # so long nothing may have run
FILLED_S = 8 * 3600.0
BYTES_PER_S = 8 << 20
BUSY_BYTES_PER_S = 1 << 20  # where an answer begins meanwhile


class Network(Protocol):
    """Who holds what: implemented by catalogue.fetching.Fetcher."""

    async def count_others(self, cid: Cid) -> int:
        """Count the other nodes that hold an adapter. Raises P2pError."""


class Larder(Protocol):
    """What fetches ahead: implemented by catalogue.catalogue.Catalogue."""

    async def fetch_ahead(self, cid: Cid) -> int:
        """Hold an adapter as a guest; return its size in bytes, 0 where it is here.

        Raises NoProvider, AdapterError, EngineError.
        """


class Replicator:
    """Fetches ahead for one node, which has `guest_bytes` for strangers' adapters.

    `idle_s` tells for how long nothing has run here.
    """

    def __init__(
        self,
        demand: Demand,
        network: Network,
        larder: Larder,
        idle_s: Callable[[], float],
        telemetry: Telemetry,
        *,
        interval_s: float,
        guest_bytes: int,
        random: random.Random,
    ) -> None:
        self._demand = demand
        self._network = network
        self._larder = larder
        self._idle_s = idle_s
        self._telemetry = telemetry
        self._interval_s = interval_s
        self._bytes_per_s = max(guest_bytes / FILLED_S, 1.0)
        self._random = random

    async def run(self) -> None:
        """Look at what is wanted, and fetch, until cancelled."""
        while True:
            await trio.sleep(self._interval_s * self._random.uniform(0.5, 1.5))
            if self._idle_s() < QUIET_S:
                continue
            try:
                size_bytes = await self.look()
            except (P2pError, OSError) as error:
                self._telemetry.log(f"replicating: not now: {error}; it is tried again")
                continue
            await trio.sleep(size_bytes / self._bytes_per_s)

    async def look(self) -> int:
        """Fetch the most wanted of the adapters that few hold; return how many bytes came."""
        for cid in self._demand.wanted()[:MAX_LOOKED_AT]:
            if 0 < await self._network.count_others(cid) < REPLICAS:
                return await self._fetch(cid)
        return 0

    async def _fetch(self, cid: Cid) -> int:
        try:
            size_bytes = await self._larder.fetch_ahead(cid)
        except (NoProvider, EngineError) as error:
            self._telemetry.log(f"replicating: {cid} was not fetched now: {error}")
            return 0
        except AdapterError as error:
            self._telemetry.log(f"replicating: {cid} is not fetched: {error}")
            self._demand.refuse(cid)
            return 0
        self._demand.forget(cid)
        self._telemetry.count("adapters_fetched_ahead")
        self._telemetry.log(f"replicating: {cid} was fetched ahead: many want it and few hold it")
        return size_bytes


class GentleRate(Rate):
    """A rate that sinks while answers run."""

    def __init__(self, max_bytes_per_s: int, idle_s: Callable[[], float]) -> None:
        super().__init__()
        self.limit(max_bytes_per_s)
        self._idle_s = idle_s

    def limit(self, bytes_per_s: int) -> None:
        """Bound what comes from now on; gentle it stays."""
        super().limit(min(bytes_per_s, BYTES_PER_S) if bytes_per_s else BYTES_PER_S)

    def reserve(self, num_bytes: int) -> float:
        """Let so many bytes pass, and return when; in busy times they count for more."""
        times = BYTES_PER_S // BUSY_BYTES_PER_S if self._idle_s() == 0.0 else 1
        return super().reserve(times * num_bytes)
