"""Keeps this node's datanets as new as the network knows them: logs, and texts that somebody needs.

    every 30 s    what the sequencer has beyond our log → rows → texts to judge; withdrawn ones go
    every 5 min   the other holders are asked too: a sequencer may show each a log of its own

Decides when; shelf.py and heads.py do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import count

import trio

from ..errors import NodeError
from ..survive import survive
from ..telemetry import Telemetry
from .ground import Held
from .heads import Heads
from .shelf import Shelf

FOLLOW_S = 30.0
EVERYBODY_EVERY = 10  # rounds


class Follower:
    """Follows every datanet that is held."""

    def __init__(
        self, shelf: Shelf, heads: Heads, held: Mapping[bytes, Held], telemetry: Telemetry
    ) -> None:
        self._shelf = shelf
        self._heads = heads
        self._held = held
        self._telemetry = telemetry

    async def run(self) -> None:
        """Follow until cancelled."""
        for number in count(1):
            for one in list(self._held.values()):
                with survive(self._telemetry, f"following datanet {one.state.charter.name}"):
                    everybody = number % EVERYBODY_EVERY == 0
                    await self._shelf.catch_up(one, everybody=everybody)
                    await self._heads.read_back(one)
                    await self._tend(one)
            await trio.sleep(FOLLOW_S)

    async def _tend(self, held: Held) -> None:
        for digest, given in list(held.state.given.items()):
            if given.withdrawn is not None and held.texts.has(digest):
                await trio.to_thread.run_sync(held.texts.drop, digest)
        with suppress(NodeError):  # asked for again when somebody wants to look at it
            await self._shelf.bring_for_council(held)
