"""Listens to what is said of adapters on the network, and says what this node has.

    heard:  a manifest on the topic → its creator's signature holds → forwarded and remembered
    said:   provider records, signed names, manifests on the topic; failures are retried later

Decides which announcements are forwarded. Fetches no adapter, and decides neither which are held
nor when to speak.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import trio
from trio_typing import TaskStatus

from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.gossip import GossipMessage, Validate, Verdict
from p2p.identity import Identity
from p2p.names import NameRecord, sign_name
from proofs.manifest import Manifest, ManifestError, parse_manifest

from ..telemetry import Telemetry

TOPIC = "adapters"
MAX_KNOWN = 4096


class Topics(Protocol):
    """The gossip topics: implemented by p2p.gossip.Gossip."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to every subscriber."""

    async def subscribe(
        self, topic: str, validate: Validate
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive the messages that `validate` accepts."""


class Records(Protocol):
    """The DHT's records: implemented by p2p.dht.Dht."""

    async def provide(self, cid: Cid) -> bool:
        """Publish that this node has the bytes. Raises P2pError."""

    async def put_name(self, record: NameRecord) -> int:
        """Store a signed name. Raises P2pError."""


class Known:
    """The `limit` adapters that this node heard of most recently."""

    def __init__(self, limit: int = MAX_KNOWN) -> None:
        self._limit = limit
        self._manifests: OrderedDict[Cid, Manifest] = OrderedDict()

    def learn(self, cid: Cid, manifest: Manifest) -> None:
        """Remember an adapter; the one not heard of for longest makes room."""
        self._manifests[cid] = manifest
        self._manifests.move_to_end(cid)
        while len(self._manifests) > self._limit:
            self._manifests.popitem(last=False)

    def find(self, cid: Cid) -> Manifest | None:
        """Return the manifest with this CID, or None if it was not heard of."""
        return self._manifests.get(cid)

    def __iter__(self) -> Iterator[tuple[Cid, Manifest]]:
        """Iterate over everything known, the latest last."""
        return iter(list(self._manifests.items()))


class Announcer:
    """Says on the network what this node has.

    Raises nothing: failures are logged, and the caller repeats everything in time.
    """

    def __init__(self, records: Records, topics: Topics, log: Callable[[str], None]) -> None:
        self._records = records
        self._topics = topics
        self._log = log

    async def provide(self, cid: Cid) -> None:
        """Publish that this node has the bytes of a CID."""
        try:
            await self._records.provide(cid)
        except P2pError as error:
            self._log(f"announcements: {cid} was not provided now: {error}; it is tried again")

    async def put_name(self, creator: Identity, name: str, cid: Cid) -> None:
        """Publish that a creator's name means this adapter.

        The time in seconds is the record's sequence, so the later one wins.
        """
        try:
            await self._records.put_name(sign_name(creator, name, int(time.time()), cid))
        except P2pError as error:
            self._log(
                f"announcements: the name {name} was not published now: {error}; it is tried again"
            )

    async def announce(self, manifest_bytes: bytes) -> None:
        """Tell every listener about an adapter."""
        await self._topics.publish(TOPIC, manifest_bytes)


async def run_announcements(
    topics: Topics,
    known: Known | None,
    telemetry: Telemetry,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward announcements whose creator signed them, and remember them, until cancelled.

    `known` is None at daemons that forward only.
    """

    def judge(data: bytes, from_peer: str) -> Verdict:
        try:
            parse_manifest(data)
        except ManifestError as error:
            telemetry.reject("announcement", from_peer, str(error))
            return Verdict.REJECT
        return Verdict.ACCEPT

    announcements = await topics.subscribe(TOPIC, judge)
    task_status.started()
    async for message in announcements:
        telemetry.count("announcements_heard")
        if known is not None:
            known.learn(Cid.of(message.data), parse_manifest(message.data))
