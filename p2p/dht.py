"""Finds who has a CID and what a name means, by the Kademlia DHT, and tells it what this node has.

Asks the network each time, within a deadline, and returns only records that were checked.
routing.py knows whom to ask. Does not know what the bytes of a CID are.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from .cid import Cid
from .errors import InvalidInput, InvalidNameRecord, NameRefused, P2pError, StaleName
from .hardening import HardenedHost
from .identity import public_key_of
from .kademlia import BoundedKademlia
from .names import NameRecord, check_date, encode_name, name_key, newest, validate_name
from .peers import PeerAddress
from .queries import Answer, Named, Queries
from .routing import TELL_TIMEOUT_S, Routing, at_once

PEER_TIMEOUT_S = 1.0  # of a look-up, which somebody waits for
ENOUGH_RECORDS = 3  # answers that agree on the newest record, or that name providers
TELL_AGAIN_S = 300.0
PROVIDE_RETRY_S = 2.0
REPROVIDE_INTERVAL_S = 3600.0
MAX_CORRECTIONS = 64
_MULTIHASH_HEADER = bytes((0x12, 32))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldName:
    """A name's record that is here, and how long ago it came."""

    record: NameRecord
    age_s: float


@dataclass(frozen=True)
class HeldProvider:
    """Who said to have something, as it was told here."""

    peer: PeerAddress
    age_s: float
    is_own: bool = False


class Dht:
    """Provider records and names of one network.

    - What is provided is remembered: what reached nobody is said again until it does, and
    everything is said again each hour.
    - `find_…` ask the network, never a cache; what they return may still be dead, so connect before
    believing it, and say so if it is (`note_failed`).
    - A peer that was not to be reached is not asked, named or waited for within GONE_S (peers.py).
    """

    def __init__(
        self, host: HardenedHost, kademlia: BoundedKademlia, clock: Callable[[], float] = time.time
    ) -> None:
        self._host = host
        self._kademlia = kademlia
        self._clock = clock
        self._own = host.get_id()
        self._queries = Queries(host)
        self.routing = Routing(host, kademlia, self._queries)
        self._provided: dict[Cid, dict[bytes, float]] = {}  # what we have, who was told and when
        self._corrections: dict[tuple[bytes, str], NameRecord] = {}
        self._woken = trio.Event()

    def note_failed(self, peer_id: str) -> None:
        """Leave a peer out for a while and forget where it was: no address of it answered."""
        self.routing.note_silent(ID.from_base58(peer_id), is_sure=True)

    def note_alive(self, peer_id: str) -> None:
        """Count a peer among the living again: a connection to it was made."""
        self.routing.note_alive(ID.from_base58(peer_id))

    def is_gone(self, peer_id: str) -> bool:
        """Return whether a peer was not to be reached lately."""
        return self.routing.is_gone(ID.from_base58(peer_id).to_bytes())

    # --- providers ---

    async def provide(self, cid: Cid) -> bool:
        """Tell the network that this node has the bytes of `cid`.

        Returns False if nobody could be told yet; it will be said again. Whoever was told within
        TELL_AGAIN_S is not told again.
        """
        key = _multihash(cid)
        told = self._provided.setdefault(cid, {})
        own = PeerInfo(self._own, list(self._host.get_addrs()))
        self._kademlia.provider_store.add_provider(key, own)
        now = trio.current_time()
        closest = await self.routing.find_closest(key)
        fresh = {peer: told[peer] for peer in closest if now - told.get(peer, -1e9) < TELL_AGAIN_S}

        async def tell(peer: bytes) -> None:
            if await self.routing.tries(
                ID(peer), self._queries.add_provider(ID(peer), key, TELL_TIMEOUT_S)
            ):
                fresh[peer] = now

        await at_once(tell, [peer for peer in closest if peer not in fresh])
        if self._provided.get(cid) is told:  # else it is to be said again with other addresses
            self._provided[cid] = fresh
        return bool(fresh)

    async def try_out(self, deadline_s: float = 10.0) -> tuple[int, int]:
        """Write a record of no use at the peers closest to a key drawn at random, and read it back
        from them. Returns how many there are, and how many gave it back.
        """
        key = _multihash(Cid(secrets.token_bytes(32)))
        own = self._own.to_bytes()
        closest: list[bytes] = []
        given = 0

        async def echo(peer: bytes) -> None:
            nonlocal given
            with suppress(P2pError):
                await self._queries.add_provider(ID(peer), key, TELL_TIMEOUT_S)
                answer = await self._queries.get_providers(ID(peer), key, TELL_TIMEOUT_S)
                given += any(named.peer == own for named in answer.providers)

        with trio.move_on_after(deadline_s):
            closest = await self.routing.find_closest(key)
            await at_once(echo, closest)
        return len(closest), given

    def provide_soon(self, cid: Cid) -> None:
        """Have `keep_providing` say it at once while the caller goes on."""
        self._provided.setdefault(cid, {})
        self._woken.set()

    def withdraw(self, cid: Cid) -> None:
        """Say no longer that this node has `cid`; others forget it in time."""
        self._provided.pop(cid, None)
        self._kademlia.provider_store.withdraw(_multihash(cid), self._own)

    def addresses_changed(self) -> None:
        """Have everything said again soon, since a record holds the addresses of its time."""
        self._provided = {cid: {} for cid in self._provided}
        self._woken.set()

    async def keep_providing(self) -> None:
        """Repeat soon what nobody heard, and everything each hour; mend old records that were met.

        Runs until cancelled.
        """
        next_full = trio.current_time() + REPROVIDE_INTERVAL_S
        while True:
            with trio.move_on_after(PROVIDE_RETRY_S):
                await self._woken.wait()
            self._woken = trio.Event()
            is_due = trio.current_time() >= next_full
            for cid in [cid for cid, told in self._provided.items() if is_due or not told]:
                if cid in self._provided:  # it may be withdrawn meanwhile
                    await self.provide(cid)
            if is_due:
                next_full = trio.current_time() + REPROVIDE_INTERVAL_S
            await self._correct()

    async def find_providers(
        self, cid: Cid, limit: int = 8, deadline_s: float = 5.0
    ) -> list[PeerAddress]:
        """Ask the network for peers that say they have `cid`, this node excluded, each once with
        all its known addresses; one that is gone only where nobody else has it.

        Connected ones come first. Returns an empty list when nobody says so in time.
        """
        key = _multihash(cid)
        local = self._kademlia.provider_store.get_providers(key)
        told = {self._own: [Named(info.peer_id.to_bytes(), tuple(info.addrs)) for info in local]}
        found = {named.peer for named in told[self._own] if not self.routing.is_gone(named.peer)}
        num_answers = 0

        async def ask(peer: ID, timeout_s: float) -> Answer:
            return await self._queries.get_providers(peer, key, timeout_s)

        def take(peer: ID, answer: Answer) -> bool:
            nonlocal num_answers
            others = [named for named in answer.providers if self._may_provide(named.peer)]
            living = {named.peer for named in others if not self.routing.is_gone(named.peer)}
            is_news = not living <= found
            found.update(living)
            told[peer] = others
            num_answers += bool(living)
            return num_answers >= ENOUGH_RECORDS and (len(found) >= limit or not is_news)

        with trio.move_on_after(deadline_s):
            await self.routing.search(key, ask, take, lambda: bool(found), PEER_TIMEOUT_S)
        return self._rank(told)[:limit]

    def recall_providers(self, cid: Cid) -> list[HeldProvider]:
        """List who is known here to have `cid`, without asking anybody: this node first if it has
        it, then the latest; nobody who is gone.
        """
        held = [
            HeldProvider(PeerAddress(str(one.peer_id), tuple(map(str, one.addresses))), age_s)
            for one, age_s in self._kademlia.provider_store.held(_multihash(cid))
            if self._may_provide(one.peer_id.to_bytes())
            and not self.routing.is_gone(one.peer_id.to_bytes())
        ]
        if cid in self._provided:
            addresses = tuple(str(address) for address in self._host.get_addrs())
            own = PeerAddress(str(self._own), addresses)
            held.append(HeldProvider(own, 0.0, is_own=True))
        return sorted(held, key=lambda one: (not one.is_own, one.age_s))

    def _rank(self, told: Mapping[ID, Sequence[Named]]) -> list[PeerAddress]:
        """Merge what several peers told, one of each in turn, so that none of them fills a list;
        those connected for longest have the first word.
        """
        connected = {peer: age for age, peer in enumerate(self._host.get_connected_peers())}
        tellers = sorted(told, key=lambda peer: connected.get(peer, len(connected)))
        addresses: dict[bytes, list[str]] = {}
        for named in chain.from_iterable(zip_longest(*(told[peer] for peer in tellers))):
            if named is not None and self._may_provide(named.peer):
                known = addresses.setdefault(named.peer, [])
                known.extend(str(one) for one in named.addresses)
        living = [peer for peer in addresses if not self.routing.is_gone(peer)]
        order = sorted(living or addresses, key=lambda peer: ID(peer) not in connected)
        return [PeerAddress(str(ID(peer)), tuple(dict.fromkeys(addresses[peer]))) for peer in order]

    def _may_provide(self, peer: bytes) -> bool:
        if peer == self._own.to_bytes():
            return False
        try:
            public_key_of(str(ID(peer)))
        except InvalidInput:
            return False
        return True

    # --- names ---

    async def put_name(self, record: NameRecord, deadline_s: float = 10.0) -> int:
        """Have the closest peers hold a record; return how many others do now, 0 where nobody is.

        Raises InvalidNameRecord for one from the future, StaleName if a record that wins against it
        is known here or at any of them, and NameRefused if they are there and none takes it.
        """
        check_date(record, self._clock())
        key = record.key.encode()
        value = encode_name(record)
        self._check_newest(record, [self._local_name(record.key)])
        held: dict[bytes, NameRecord | None] = {}

        async def ask(peer: ID, timeout_s: float) -> Answer:
            return await self._queries.get_value(peer, key, timeout_s)

        def take(peer: ID, answer: Answer) -> bool:
            held[peer.to_bytes()] = self._read_name(record.key, peer, answer)
            return False

        walk = await self.routing.look_up(key, ask, take, TELL_TIMEOUT_S, deadline_s)
        self._check_newest(record, held.values())
        holders = {peer for peer, known in held.items() if known == record}

        async def store(peer: bytes) -> None:
            put = self._queries.put_value(ID(peer), key, value, TELL_TIMEOUT_S)
            if await self.routing.tries(ID(peer), put):
                holders.add(peer)

        targets = [peer for peer in walk.holders() if peer not in holders]
        with trio.move_on_after(deadline_s):
            await at_once(store, targets)
        if targets and not holders:
            raise NameRefused(
                f"none of {len(targets)} peers took the name {record.name!r} at sequence"
                f" {record.sequence}; a record from the future is not believed: this machine's"
                f" clock says {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(self._clock()))},"
                " so set it right if it is wrong, and publish again"
            )
        self._store_name(record)
        return len(holders)

    async def find_name(self, owner: str, name: str, deadline_s: float = 5.0) -> NameRecord | None:
        """Ask the network for a name; return its newest record within the deadline, or None.

        Raises InvalidInput for what cannot be a name or an owner.
        """
        public_key_of(owner)
        key = name_key(owner, name)
        found: dict[ID, NameRecord] = {}
        local = self._local_name(key)

        async def ask(peer: ID, timeout_s: float) -> Answer:
            return await self._queries.get_value(peer, key.encode(), timeout_s)

        def best() -> NameRecord | None:
            return _newest([*found.values(), local])

        def take(peer: ID, answer: Answer) -> bool:
            record = self._read_name(key, peer, answer)
            if record is not None:
                found[peer] = record
            return sum(record == best() for record in found.values()) >= ENOUGH_RECORDS

        with trio.move_on_after(deadline_s):
            await self.routing.search(key.encode(), ask, take, lambda: bool(found), PEER_TIMEOUT_S)
        winner = best()
        if winner is not None:
            self._note_old(winner, (peer for peer in found if found[peer] != winner))
        return winner

    def recall_name(self, owner: str, name: str) -> HeldName | None:
        """Return the record of a name that is here, without asking anybody.

        Raises InvalidInput for what cannot be a name or an owner.
        """
        public_key_of(owner)
        key = name_key(owner, name)
        record = self._local_name(key)
        if record is None:
            return None
        return HeldName(record, self._kademlia.value_store.age_s(key.encode()))

    def learn_name(self, record: NameRecord) -> bool:
        """Keep a checked record that came another way, to answer others with it.

        Returns False for one that is no news.
        """
        known = self._local_name(record.key)
        if _newest([known, record]) == known:
            return False
        self._store_name(record)
        return True

    def _note_old(self, winner: NameRecord, peers: Iterable[ID]) -> None:
        """Have the peers that hold an older record told of the newer one."""
        for peer in peers:
            if len(self._corrections) < MAX_CORRECTIONS:
                self._corrections[peer.to_bytes(), winner.key] = winner
                self._woken.set()

    async def _correct(self) -> None:
        while self._corrections:
            (peer, key), record = self._corrections.popitem()
            put = self._queries.put_value(
                ID(peer), key.encode(), encode_name(record), TELL_TIMEOUT_S
            )
            await self.routing.tries(ID(peer), put)

    def _read_name(self, key: str, peer: ID, answer: Answer) -> NameRecord | None:
        if answer.value is None:
            return None
        try:
            record = validate_name(key, answer.value)
            check_date(record, self._clock())
        except InvalidNameRecord as error:
            logger.info("%s gave a bad record for %s: %s", peer, key, error)
            return None
        return record

    def _local_name(self, key: str) -> NameRecord | None:
        stored = self._kademlia.value_store.get(key.encode())
        return None if stored is None else validate_name(key, stored.value)

    def _store_name(self, record: NameRecord) -> None:
        self._kademlia.value_store.put_value(record.key.encode(), encode_name(record))

    def _check_newest(self, record: NameRecord, others: Iterable[NameRecord | None]) -> None:
        known = _newest([record, *others])
        if known is not None and known != record:
            self._store_name(known)
            raise StaleName(
                f"{record.name!r} is known at sequence {known.sequence}; sign the new record with a"
                " higher one",
                known.sequence,
            )


def _newest(records: Iterable[NameRecord | None]) -> NameRecord | None:
    known = [record for record in records if record is not None]
    return known[newest(known)] if known else None


def _multihash(cid: Cid) -> bytes:
    return _MULTIHASH_HEADER + cid.digest
