"""Makes the library's DHT answer others within our limits: what it stores for them, and for how
long. It asks nobody: dht.py does that.

- Values are names alone, checked by names.py; one that is dated too far ahead is not believed.
- What one peer can make it keep is bounded, in values, in providers and in bytes of each.
- It keeps no rounds of its own: the library's wait ten seconds for each peer that is silent.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

import trio
from libp2p.kad_dht.common import format_time_rfc3339
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.provider_store import ProviderRecord, ProviderStore
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator, Validator

from .hardening import HardenedHost
from .names import NAMESPACE, check_date, newest, validate_name

VALUE_LIFE_S = 24 * 3600.0
MAX_VALUES = 20_000
_DROPPED_AT_ONCE = MAX_VALUES // 20
MAX_PROVIDER_RECORDS = 50_000
MAX_PROVIDER_RECORDS_OF_PEER = 5_000
MAX_PROVIDERS_OF_KEY = 100
TOLD_PROVIDERS = 20  # in one answer, drawn anew for each
MAX_ADDRESSES_OF_PROVIDER = 8
PROVIDER_RECORDS_PER_10_S = (
    2_000  # of one peer; the library's 10 loses most of what a node with many adapters says
)
INBOUND_STREAMS = 64  # of all peers together; the library resets what is over its 12
_TIDY_INTERVAL_S = 600.0


class _NameValidator(Validator):
    """Gives names.py to the library as its validator."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def validate(self, key: str, value: bytes) -> None:
        check_date(validate_name(key, value), self._clock())

    def select(self, key: str, values: list[bytes]) -> int:
        return newest([validate_name(key, value) for value in values])


class BoundedValues(ValueStore):
    """The values of others. Where there are too many, those far from this node go: who wants one
    gone must find keys that are closer to every node that holds it.
    """

    def put_record(self, key: bytes, record: Record) -> None:
        """Keep a value that was checked, and nothing else that came with it."""
        self.put_value(key, record.value)

    def put_value(self, key: bytes, value: bytes) -> None:
        """Keep a value from now on."""
        if len(self.store) >= MAX_VALUES and key not in self.store:
            self._drop_farthest()
        received = format_time_rfc3339()
        self.store[key] = (
            Record(key=key, value=value, timeReceived=received),
            time.time() + VALUE_LIFE_S,
        )

    def age_s(self, key: bytes) -> float:
        """Return how long ago a value that is here came."""
        _, until = self.store[key]
        return max(time.time() - (until - VALUE_LIFE_S), 0.0)

    def _drop_farthest(self) -> None:
        self.cleanup_expired()
        own = _place(self.local_peer_id.to_bytes())
        order = sorted(self.store, key=lambda key: _place(key) ^ own)
        for key in order[MAX_VALUES - _DROPPED_AT_ONCE :]:
            del self.store[key]


class BoundedProviders(ProviderStore):
    """Who has what, as said by each peer of itself.

    The latest stay: of a key, of a peer, and of all together, where the peer that said most makes
    room. Peers that are gone are forgotten.
    """

    def __init__(self, host: HardenedHost, peer_routing: object) -> None:
        super().__init__(host, peer_routing)
        self._said: dict[str, OrderedDict[bytes, None]] = {}  # keys of each peer, latest last
        self._num_records = 0

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Keep one statement."""
        peer = str(provider.peer_id)
        self._drop(peer, key)
        said = self._said.get(peer, ())
        if len(said) >= MAX_PROVIDER_RECORDS_OF_PEER:
            self._drop(peer, next(iter(said)))
        if self._num_records >= MAX_PROVIDER_RECORDS:
            most = max(self._said, key=lambda one: len(self._said[one]))
            self._drop(most, next(iter(self._said[most])))
        of_key = self.providers.setdefault(key, {})
        if len(of_key) >= MAX_PROVIDERS_OF_KEY:
            self._drop(next(iter(of_key)), key)
            of_key = self.providers.setdefault(key, {})
        short = PeerInfo(provider.peer_id, list(provider.addrs)[:MAX_ADDRESSES_OF_PROVIDER])
        of_key[peer] = ProviderRecord(short)
        self._said.setdefault(peer, OrderedDict())[key] = None
        self._num_records += 1

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        """List some of those who have it; a flood of false ones hides nobody for good."""
        of_key = self.providers.get(key, {})
        for peer in [peer for peer, record in of_key.items() if record.is_expired()]:
            self._drop(peer, key)
        records = list(self.providers.get(key, {}).values())
        told = random.sample(records, min(len(records), TOLD_PROVIDERS))
        return [PeerInfo(record.peer_id, record.addresses) for record in told]

    def held(self, key: bytes) -> list[tuple[ProviderRecord, float]]:
        """List all who have it, and how many seconds ago each said so."""
        now = time.time()
        records = self.providers.get(key, {}).values()
        return [(one, max(now - one.timestamp, 0.0)) for one in records if not one.is_expired()]

    def cleanup_expired(self) -> None:
        """Drop what was said too long ago."""
        for key in list(self.providers):
            self.get_providers(key)

    def withdraw(self, key: bytes, peer: ID) -> None:
        """Drop one statement of a peer, if it is here."""
        self._drop(str(peer), key)

    def forget(self, peer: ID) -> None:
        """Drop all that a peer said, because it is gone."""
        for key in list(self._said.get(str(peer), ())):
            self._drop(str(peer), key)

    @property
    def num_records(self) -> int:
        """Return how many statements are kept."""
        return self._num_records

    def _drop(self, peer: str, key: bytes) -> None:
        of_key = self.providers.get(key, {})
        if of_key.pop(peer, None) is None:
            return
        if not of_key:
            del self.providers[key]
        said = self._said[peer]
        del said[key]
        if not said:
            del self._said[peer]
        self._num_records -= 1


class BoundedKademlia(KadDHT):
    """The answering side of the DHT."""

    value_store: BoundedValues
    provider_store: BoundedProviders

    def __init__(
        self, host: HardenedHost, *, is_server: bool, clock: Callable[[], float] = time.time
    ) -> None:
        validator = NamespacedValidator({NAMESPACE: _NameValidator(clock)}, strict_validation=True)
        super().__init__(
            host,
            DHTMode.SERVER if is_server else DHTMode.CLIENT,
            validator=validator,
            validator_changed=True,
            strict_validation=True,
        )
        self.value_store = BoundedValues(host, self.local_peer_id)
        self.provider_store = BoundedProviders(host, self.peer_routing)
        self._provider_rate_max = PROVIDER_RECORDS_PER_10_S
        self._inbound_limiter = trio.CapacityLimiter(INBOUND_STREAMS)

    async def _run_main_loop(self) -> None:
        while True:
            await trio.sleep(_TIDY_INTERVAL_S)
            self.value_store.cleanup_expired()
            self.provider_store.cleanup_expired()


def _place(key: bytes) -> int:
    return int.from_bytes(sha256(key).digest(), "big")
