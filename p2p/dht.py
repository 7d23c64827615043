"""Finds who has a CID and what a name means, by the Kademlia DHT.

The library's own lookups answer from copies that are up to two days old; these ask the network each
time, within a deadline, and return only records that were checked. Does not know whether a peer it
names is alive, nor what the bytes of a CID are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.records.validator import NamespacedValidator, Validator

from .cid import Cid
from .errors import InvalidInput, InvalidNameRecord, StaleName
from .hardening import HardenedHost
from .identity import public_key_of
from .names import NAMESPACE, NameRecord, encode_name, name_key, newest, validate_name
from .peers import PeerAddress

LOOKUP_PARALLEL = 10
STORE_TIMEOUT_S = 5.0
PROVIDER_RECORDS_PER_10_S = (
    2_000  # of one peer; the library's 10 loses most of what a node with many adapters says
)
REPROVIDE_INTERVAL_S = 3600.0
PROVIDE_RETRY_S = 2.0
_MULTIHASH_HEADER = bytes((0x12, 32))

logger = logging.getLogger(__name__)


class _NameValidator(Validator):
    """Gives names.py to the library as its validator."""

    def validate(self, key: str, value: bytes) -> None:
        validate_name(key, value)

    def select(self, key: str, values: list[bytes]) -> int:
        return newest([validate_name(key, value) for value in values])


def new_kademlia(host: HardenedHost, *, is_server: bool) -> KadDHT:
    """Make the library's DHT with our limits, and with names as the only values it stores."""
    validator = NamespacedValidator({NAMESPACE: _NameValidator()}, strict_validation=True)
    mode = DHTMode.SERVER if is_server else DHTMode.CLIENT
    kademlia = KadDHT(
        host, mode, validator=validator, validator_changed=True, strict_validation=True
    )
    kademlia._provider_rate_max = PROVIDER_RECORDS_PER_10_S
    return kademlia


class Dht:
    """Provider records and names of one network.

    - What is provided is remembered: what reached nobody is said again until it does, and
    everything is said again each hour.
    - `find_…` ask the network, never a cache; what they return may still be dead, so connect before
    believing it.
    """

    def __init__(self, kademlia: KadDHT, peer_id: str) -> None:
        self._kademlia = kademlia
        self._peer_id = peer_id
        self._provided: dict[Cid, bool] = {}  # what we have, and whether anybody was told
        self._woken = trio.Event()

    async def add_server(self, peer: ID) -> None:
        """Put a peer that serves the DHT into the routing table."""
        await self._kademlia.add_peer(peer, skip_server_mode_check=True)

    async def provide(self, cid: Cid) -> bool:
        """Tell the network that this node has the bytes of `cid`.

        Returns False if nobody could be told yet; it will be said again.
        """
        told: bool = await self._kademlia.provide(str(cid))
        self._provided[cid] = told
        return told

    def provide_soon(self, cid: Cid) -> None:
        """Have `keep_providing` say it at once while the caller goes on."""
        self._provided.setdefault(cid, False)
        self._woken.set()

    def addresses_changed(self) -> None:
        """Have everything said again soon, since a record holds the addresses of its time."""
        self._provided = dict.fromkeys(self._provided, False)
        self._woken.set()

    async def keep_providing(self) -> None:
        """Repeat soon what nobody heard, and everything each hour. Runs until cancelled."""
        next_full = trio.current_time() + REPROVIDE_INTERVAL_S
        while True:
            with trio.move_on_after(PROVIDE_RETRY_S):
                await self._woken.wait()
            self._woken = trio.Event()
            is_due = trio.current_time() >= next_full
            for cid in [cid for cid, told in self._provided.items() if is_due or not told]:
                await self.provide(cid)
            if is_due:
                next_full = trio.current_time() + REPROVIDE_INTERVAL_S

    async def find_providers(
        self, cid: Cid, limit: int = 8, deadline_s: float = 5.0
    ) -> list[PeerAddress]:
        """Ask the network for peers that say they have `cid`, this node excluded, each once with
        all its known addresses.

        Returns an empty list when nobody says so in time.
        """
        key = _multihash(cid)
        found: dict[str, list[str]] = {}
        for info in self._kademlia.provider_store.get_providers(key):
            self._note(found, info.peer_id, info.addrs)

        async def ask(peer: ID) -> bool:
            (
                providers,
                _,
            ) = await self._kademlia.provider_store._get_providers_from_peer_with_closers(peer, key)
            for info in providers:
                self._note(found, info.peer_id, info.addrs)
            return len(found) >= limit

        await self._ask_closest(key, ask, deadline_s)
        return [
            PeerAddress(peer_id, tuple(dict.fromkeys(addresses)))
            for peer_id, addresses in list(found.items())[:limit]
        ]

    def _note(self, found: dict[str, list[str]], peer: ID, addresses: list[object]) -> None:
        peer_id = str(peer)
        try:
            public_key_of(peer_id)
        except InvalidInput:
            return
        if peer_id != self._peer_id:
            found.setdefault(peer_id, []).extend(str(address) for address in addresses)

    async def put_name(self, record: NameRecord, deadline_s: float = 10.0) -> int:
        """Store a record here and at the closest peers; return how many others took it.

        Raises StaleName if a newer one is known here.
        """
        key = record.key.encode()
        value = encode_name(record)
        known = self._local_name(record.key)
        if known is not None and known != record and newest([record, known]) == 1:
            raise StaleName(
                f"{record.name!r} is known at sequence {known.sequence}; sign the new record with a"
                " higher one"
            )
        self._kademlia.value_store.put(key, value)
        num_stored = 0

        async def store(peer: ID) -> bool:
            nonlocal num_stored
            num_stored += await self._kademlia.value_store._store_at_peer(peer, key, value)
            return False

        await self._ask_closest(key, store, deadline_s)
        return num_stored

    async def find_name(self, owner: str, name: str, deadline_s: float = 5.0) -> NameRecord | None:
        """Ask the network for a name; return its newest record within the deadline, or None.

        Raises InvalidInput for what cannot be a name or an owner.
        """
        public_key_of(owner)
        key = name_key(owner, name)
        found = [record for record in (self._local_name(key),) if record is not None]

        async def ask(peer: ID) -> bool:
            value = await self._kademlia.value_store._get_from_peer(peer, key.encode())
            if isinstance(value, bytes):
                try:
                    found.append(validate_name(key, value))
                except InvalidNameRecord as error:
                    logger.info("%s gave a bad record for %s: %s", peer, key, error)
            return False

        await self._ask_closest(key.encode(), ask, deadline_s)
        return found[newest(found)] if found else None

    def _local_name(self, key: str) -> NameRecord | None:
        stored = self._kademlia.value_store.get(key.encode())
        return None if stored is None else validate_name(key, stored.value)

    async def _ask_closest(
        self, key: bytes, ask: Callable[[ID], Awaitable[bool]], deadline_s: float
    ) -> None:
        """Ask the peers closest to a key, several at once, until one answer is enough or the
        deadline passes.
        """
        with trio.move_on_after(deadline_s) as scope:
            peers = await self._kademlia.peer_routing.find_closest_peers_network(key)
            limiter = trio.CapacityLimiter(LOOKUP_PARALLEL)

            async def ask_one(peer: ID) -> None:
                async with limiter:
                    with trio.move_on_after(STORE_TIMEOUT_S):
                        if await ask(peer):
                            scope.cancel()

            async with trio.open_nursery() as nursery:
                for peer in peers:
                    if str(peer) != self._peer_id:
                        nursery.start_soon(ask_one, peer)


def _multihash(cid: Cid) -> bytes:
    return _MULTIHASH_HEADER + cid.digest
