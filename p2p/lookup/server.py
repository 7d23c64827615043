"""Answers look-ups: from what is known here at once, and by asking the network otherwise.

Bounds how often a peer asks, how many searches run and how long they take, and what is remembered.
Does not know what the kinds find.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ..errors import InvalidInput, PeerTimeout, StreamClosed
from ..gossip import RateLimit
from ..host import Host
from ..streams import FrameStream
from .kinds import NAME, PROVIDERS, Kind, Known, NameKind, ProviderKind
from .messages import (
    BUSY,
    MALFORMED,
    MAX_AGE_S,
    MAX_FOUND,
    MAX_FOUND_BYTES,
    MAX_LOOKUP_BYTES,
    PROTOCOL,
    UNKNOWN_KIND,
    Found,
    Lookup,
    Refused,
    decode_lookup,
    encode,
)

STREAMS_PER_PEER = 4
IDLE_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 10.0
LOOKUPS_PER_SECOND = 20.0
BURST_LOOKUPS = 100
SEARCHES_PER_SECOND = 2.0
BURST_SEARCHES = 40
MAX_SEARCHES = 8  # at once, for all peers together
SEARCH_DEADLINE_S = 6.0  # waiting for a turn included
NOTHING_AGE_S = 5.0  # how long that nothing was found is remembered
MAX_REMEMBERED = 2_000
MAX_REMEMBERED_BYTES = 4 << 20
_TEXT_CHARS = 300


@dataclass(frozen=True)
class _Memory:
    found: tuple[bytes, ...]
    learnt_at: float

    @property
    def size_bytes(self) -> int:
        return sum(len(one) for one in self.found)


class Lookups:
    """Serves `/lorikeet/lookup/1` for as long as the host is open.

    - The same question of several peers is one search.
    - What was found is remembered; whoever asks says how old it may be.
    """

    def __init__(self, host: Host) -> None:
        self._kinds: dict[str, Kind] = {}
        self._limits = {
            "lookup": RateLimit(LOOKUPS_PER_SECOND, BURST_LOOKUPS),
            "search": RateLimit(SEARCHES_PER_SECOND, BURST_SEARCHES),
        }
        self._memories: OrderedDict[tuple[str, bytes], _Memory] = OrderedDict()
        self._num_remembered_bytes = 0
        self._searching: dict[tuple[str, bytes], trio.Lock] = {}
        self._places = trio.CapacityLimiter(MAX_SEARCHES)
        self.add(NAME, NameKind(host.dht))
        self.add(PROVIDERS, ProviderKind(host.dht))
        host.serve(PROTOCOL, self._serve, streams_per_peer=STREAMS_PER_PEER)

    def add(self, name: str, kind: Kind) -> None:
        """Answer for one more kind of thing, under a name of its own."""
        assert name not in self._kinds, f"{name} is looked up already"
        self._kinds[name] = kind

    async def _serve(self, stream: FrameStream) -> None:
        while True:
            try:
                frame = await stream.receive(IDLE_TIMEOUT_S, max_bytes=MAX_LOOKUP_BYTES)
            except (StreamClosed, PeerTimeout):
                return
            answer = await self._answer(stream.remote, frame)
            await stream.send(encode(answer), SEND_TIMEOUT_S)

    async def _answer(self, peer: str, frame: bytes) -> Found | Refused:
        if not self._may("lookup", peer):
            return _too_often(LOOKUPS_PER_SECOND, "look-ups")
        try:
            asked = decode_lookup(frame)
            kind = self._kinds.get(asked.kind)
            if kind is None:
                known = ", ".join(sorted(self._kinds))
                return Refused(UNKNOWN_KIND, f"no {asked.kind!r} is looked up here, but {known}")
            return await self._look_up(peer, kind, asked)
        except InvalidInput as error:
            return Refused(MALFORMED, str(error)[:_TEXT_CHARS])

    def _may(self, what: str, peer: str) -> bool:
        return self._limits[what].allow((peer, what), trio.current_time())

    async def _look_up(self, peer: str, kind: Kind, asked: Lookup) -> Found | Refused:
        known = self._recall(kind, asked)
        if known is not None:
            return _tell(known)
        if not self._may("search", peer):
            return _too_often(SEARCHES_PER_SECOND, "searches")
        with trio.move_on_after(SEARCH_DEADLINE_S):
            return _tell(await self._search(kind, asked))
        return Refused(BUSY, "the search took too long; ask again, or another node")

    def _recall(self, kind: Kind, asked: Lookup) -> Known | None:
        """Return the youngest of what is known and remembered, if it is young enough."""
        known = kind.recall(asked.key, asked.max_age_s)
        memory = self._memories.get((asked.kind, asked.key))
        if memory is not None:
            age_s = trio.current_time() - memory.learnt_at
            max_age_s = asked.max_age_s if memory.found else min(NOTHING_AGE_S, asked.max_age_s)
            if age_s <= max_age_s and (known is None or age_s < known.age_s):
                return Known(memory.found, age_s)
        return known

    async def _search(self, kind: Kind, asked: Lookup) -> Known:
        """Ask the network, once for all who want it now."""
        began = trio.current_time()
        about = (asked.kind, asked.key)
        lock = self._searching.setdefault(about, trio.Lock())
        try:
            async with lock:
                memory = self._memories.get(about)
                if memory is not None and memory.learnt_at >= began:
                    return Known(memory.found, trio.current_time() - memory.learnt_at)
                async with self._places:
                    found = _bounded(await kind.search(asked.key))
                self._remember(about, found)
                return Known(found, 0.0)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._searching.pop(about, None)

    def _remember(self, about: tuple[str, bytes], found: tuple[bytes, ...]) -> None:
        self._forget(about)
        self._memories[about] = memory = _Memory(found, trio.current_time())
        self._num_remembered_bytes += memory.size_bytes
        while (
            len(self._memories) > MAX_REMEMBERED
            or self._num_remembered_bytes > MAX_REMEMBERED_BYTES
        ):
            self._forget(next(iter(self._memories)))

    def _forget(self, about: tuple[str, bytes]) -> None:
        memory = self._memories.pop(about, None)
        if memory is not None:
            self._num_remembered_bytes -= memory.size_bytes


def _bounded(found: Sequence[bytes]) -> tuple[bytes, ...]:
    """Keep the first that fit into one answer."""
    kept: list[bytes] = []
    left = MAX_FOUND_BYTES
    for one in found[:MAX_FOUND]:
        left -= len(one)
        if left < 0:
            break
        kept.append(one)
    return tuple(kept)


def _tell(known: Known) -> Found:
    return Found(min(int(known.age_s), MAX_AGE_S), list(_bounded(known.found)))


def _too_often(per_second: float, what: str) -> Refused:
    text = f"more than {per_second:.0f} {what} a second; ask again in a second, or another node"
    return Refused(BUSY, text)
