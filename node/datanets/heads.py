"""Says which registration is the newest of each log that this node writes, and reads back what was
said: a home that was restored from a backup is older than its log, and must not write a second one.

    after a start, before the first entry: the holders' heads, and the head's name
        → rows that are missing here → a head that stays unknown stops the log (ground.py)
    a log went on here → its head, a name → the DHT, and again every ten minutes

Believes a head that this node's own key signed, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from p2p.cid import Cid
from p2p.errors import InvalidNameRecord, NameRefused, P2pError, StaleName
from p2p.host import Host
from p2p.identity import Identity, peer_id_of
from p2p.peers import PeerAddress
from proofs.datanet.entries import digest_of, registrar_of
from proofs.errors import DatanetError
from proofs.signing import address_of

from ..catalogue.announcements import Announcer
from ..catalogue.book import NameBook
from ..errors import DatanetRefused
from ..survive import survive
from ..telemetry import Telemetry
from ..wire.infer import WireError
from .ground import Held
from .remote import Found, Remote

HEAD_S = 1.0  # a burst of entries is one head
SAY_AGAIN_S = 600.0
RENEW_S = 12 * 3600.0
ASK_S = 5.0  # for a head, and for the name
TAKE_S = 15.0  # for rows that are missing here
MAX_ASKED = 16
ASK_AGAIN_S = 10.0  # while a head is unknown


def head_name(datanet: bytes) -> str:
    """Return the name whose target is a datanet's newest registration."""
    return f"datanet-{datanet.hex()[:40]}"


class Heads:
    """The heads of the logs that this node writes."""

    def __init__(
        self,
        identity: Identity,
        host: Host,
        remote: Remote,
        book: NameBook,
        announcer: Announcer,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._host = host
        self._remote = remote
        self._book = book
        self._announcer = announcer
        self._telemetry = telemetry
        self._clock = clock
        self._moved: dict[bytes, Held] = {}
        self._woken = trio.Event()

    # --- what others have ---

    async def read_back(self, held: Held, take_s: float = TAKE_S) -> None:
        """Once after a start: take what others have beyond our log, and note a head that our key
        signed and nobody gave. Where nobody is connected it is asked again later.
        """
        async with held.asking:
            if held.is_newest or not self._is_ours(held) or not self._host.has_peers():
                return
            if trio.current_time() < held.asked_at + ASK_AGAIN_S:
                return
            found = [one for one in await self._ask(held) if self._is_signed(one)]
            found.sort(key=lambda one: one.placed.seq, reverse=True)
            with trio.move_on_after(take_s):
                for one in found:
                    await self._take(held, one.peer)
            ahead = [one for one in found if one.placed.seq > held.state.seq]
            held.lost = digest_of(ahead[0].registration) if ahead else await self._named(held)
            held.is_newest = held.lost is None
            held.asked_at = trio.current_time()
        part = f"datanet {held.state.charter.name}"
        try:
            held.refuse_if_forked()
        except DatanetRefused as error:
            self._telemetry.trouble(part, str(error))
        else:
            self._telemetry.clear(part)
            self.moved(held)

    async def _ask(self, held: Held) -> list[Found]:
        """Ask who has it for its head, all at once."""
        people = [peer_id_of(key) for key in held.state.people]
        known = [PeerAddress(one) for one in people if self._host.is_connected(one)]
        holders = await self._remote.holders(held.datanet, known)
        found = list[Found]()

        async def ask(peer: PeerAddress) -> None:
            with trio.move_on_after(ASK_S), suppress(P2pError, WireError, DatanetError, OSError):
                found.append(await self._remote.head(held, peer))

        async with trio.open_nursery() as nursery:
            for peer in holders[:MAX_ASKED]:
                nursery.start_soon(ask, peer)
        return found

    async def _take(self, held: Held, peer: PeerAddress) -> None:
        try:
            await self._remote.catch_up(held, peer)
        except (P2pError, WireError, DatanetError, OSError) as error:
            self._telemetry.log(f"datanets: {held.state.charter.name}: {error}")

    async def _named(self, held: Held) -> bytes | None:
        """Return the head's name's target where that is not in our log."""
        record = None
        with suppress(P2pError):
            record = await self._host.dht.find_name(
                self._identity.peer_id, head_name(held.datanet), deadline_s=ASK_S
            )
        if record is None or record.target is None:
            return None
        digest = record.target.digest
        is_here = await trio.to_thread.run_sync(held.has_registration, digest)
        return None if is_here else digest

    def _is_signed(self, found: Found) -> bool:
        with suppress(DatanetError):
            return registrar_of(found.placed) == address_of(self._identity.public_key)
        return False

    def _is_ours(self, held: Held) -> bool:
        return held.state.charter.sequencer == self._identity.public_key

    async def go_on(self, held: Held) -> None:
        """Say our log's head above one that is unknown here and that nobody gives. OSError."""
        name = head_name(held.datanet)
        record = None
        with suppress(P2pError):
            record = await self._host.dht.find_name(self._identity.peer_id, name, deadline_s=ASK_S)
        await self._sign_above(held, name, 0 if record is None else record.sequence)
        held.lost = None
        held.is_newest = True
        self.moved(held)

    # --- what we say ---

    def moved(self, held: Held) -> None:
        """A log went on here, or began."""
        if self._is_ours(held):
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
                    moved = self._moved
                    self._moved = {}
                    for one in moved.values():
                        with survive(self._telemetry, "a datanet's head"):
                            await self._say(one)
                    await self._woken.wait()

    async def _say(self, held: Held) -> None:
        if not held.is_newest or not self._host.has_peers():
            return  # it is said when it is known to be the newest (read_back)
        name, target = head_name(held.datanet), Cid(held.state.head)
        record = self._book.find(self._identity.peer_id, name)
        is_old = record is None or record.sequence < self._clock() - RENEW_S
        if record is None or record.target != target or is_old:
            record = await trio.to_thread.run_sync(self._book.sign, self._identity, name, target)
        try:
            await self._announcer.put_name(record)
        except StaleName as error:
            await self._resolve(held, name, error.sequence)
        except (NameRefused, InvalidNameRecord) as error:
            self._telemetry.log(f"datanets: the head of {name} was not believed: {error}")

    async def _resolve(self, held: Held, name: str, sequence: int) -> None:
        """Somebody knows a newer name than ours: go on above it if its head is in our log."""
        held.doubt()
        await self.read_back(held)
        if held.is_newest:
            await self._sign_above(held, name, sequence)
            self.moved(held)

    async def _sign_above(self, held: Held, name: str, sequence: int) -> None:
        target = Cid(held.state.head)
        await trio.to_thread.run_sync(
            lambda: self._book.sign(self._identity, name, target, above=sequence)
        )
