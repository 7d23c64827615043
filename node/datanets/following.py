"""Keeps this node's datanets as new as the network knows them: logs, texts that a council needs,
and the heads of those whose log it writes.

    every 30 s: what others have beyond our log → rows → texts to judge → withdrawn texts deleted
    a log went on here → its head, a name → the DHT, and again every ten minutes

Decides when; service.py and remote.py do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from p2p.cid import Cid
from p2p.errors import InvalidNameRecord, NameRefused, StaleName
from p2p.identity import Identity

from ..catalogue.announcements import Announcer
from ..catalogue.book import NameBook
from ..errors import NodeError
from ..survive import survive
from ..telemetry import Telemetry
from .ground import Held
from .service import DatanetService

FOLLOW_S = 30.0
HEAD_S = 1.0  # a burst of entries is one head
SAY_AGAIN_S = 600.0
RENEW_S = 12 * 3600.0


def head_name(datanet: bytes) -> str:
    """Return the name whose target is a datanet's newest registration."""
    return f"datanet-{datanet.hex()[:40]}"


class Heads:
    """Says which registration is the newest of each log that this node writes."""

    def __init__(
        self,
        identity: Identity,
        book: NameBook,
        announcer: Announcer,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._book = book
        self._announcer = announcer
        self._telemetry = telemetry
        self._clock = clock
        self._moved: dict[bytes, Held] = {}
        self._woken = trio.Event()

    def moved(self, held: Held) -> None:
        """A log went on here, or began."""
        if held.state.charter.sequencer == self._identity.public_key:
            self._moved[held.datanet] = held
            self._woken.set()

    async def run(self, held: Mapping[bytes, Held]) -> None:
        """Say heads until cancelled: at once where one moved, all now and then."""
        while True:
            for one in held.values():
                self.moved(one)
            with trio.move_on_after(SAY_AGAIN_S):
                while True:
                    await trio.sleep(HEAD_S)
                    self._woken = trio.Event()
                    while self._moved:
                        _, one = self._moved.popitem()
                        await self._say(one)
                    await self._woken.wait()

    async def _say(self, held: Held) -> None:
        name, target = head_name(held.datanet), Cid(held.state.head)
        record = self._book.find(self._identity.peer_id, name)
        with survive(self._telemetry, "a datanet's head"):
            is_old = record is None or record.sequence < self._clock() - RENEW_S
            if record is None or record.target != target or is_old:
                record = await trio.to_thread.run_sync(
                    self._book.sign, self._identity, name, target
                )
            try:
                await self._announcer.put_name(record)
            except StaleName as error:
                self._book.sign(self._identity, name, target, above=error.sequence)
                self._moved[held.datanet] = held
            except (NameRefused, InvalidNameRecord) as error:
                self._telemetry.log(f"datanets: the head of {name} was not believed: {error}")


class Follower:
    """Follows every datanet that is held."""

    def __init__(
        self, service: DatanetService, held: Mapping[bytes, Held], telemetry: Telemetry
    ) -> None:
        self._service = service
        self._held = held
        self._telemetry = telemetry

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            for one in list(self._held.values()):
                with survive(self._telemetry, f"datanet {one.state.charter.name}"):
                    await self._service.catch_up(one)
                    await self._tend(one)
            await trio.sleep(FOLLOW_S)

    async def _tend(self, held: Held) -> None:
        for digest, given in list(held.state.given.items()):
            if given.withdrawn is not None and held.texts.has(digest):
                await trio.to_thread.run_sync(held.texts.drop, digest)
        with suppress(NodeError):  # asked for again when somebody wants to look at it
            await self._service.bring_for_council(held)
