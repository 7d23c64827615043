"""What is heard of adapters on the network, and what this node says of its own.

    heard:  a manifest on the topic → its creator's signature holds → forwarded and remembered
    said:   provider records, signed names, manifests on the topic; what fails is said again later

Fetches no adapter, and decides neither which are held nor when to speak.
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
    """Where announcements go and come from: p2p.gossip.Gossip."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to everybody who subscribes."""

    async def subscribe(
        self, topic: str, validate: Validate
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Hear what `validate` accepts."""


class Records(Protocol):
    """Where provider records and names are put: p2p.dht.Dht."""

    async def provide(self, cid: Cid) -> bool:
        """Say that this node has the bytes; raises P2pError."""

    async def put_name(self, record: NameRecord) -> int:
        """Store a signed name; raises P2pError."""


class Known:
    """The adapters this node has heard of, the `limit` latest of them."""

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
        """Give the manifest behind a CID, if it was heard of."""
        return self._manifests.get(cid)

    def __iter__(self) -> Iterator[tuple[Cid, Manifest]]:
        """Iterate over everything known, the latest last."""
        return iter(list(self._manifests.items()))


class Announcer:
    """Says on the network what this node has. Raises nothing: what fails is logged, and its caller
    says it again in time.
    """

    def __init__(self, records: Records, topics: Topics, log: Callable[[str], None]) -> None:
        self._records = records
        self._topics = topics
        self._log = log

    async def provide(self, cid: Cid) -> None:
        """Say that this node has the bytes of a CID."""
        try:
            await self._records.provide(cid)
        except P2pError as error:
            self._log(f"announcements: {cid} was not provided now: {error}; it is tried again")

    async def put_name(self, creator: Identity, name: str, cid: Cid) -> None:
        """Say that a creator's name is this adapter; the time is the sequence, so that later
        wins.
        """
        try:
            await self._records.put_name(sign_name(creator, name, int(time.time()), cid))
        except P2pError as error:
            self._log(
                f"announcements: the name {name} was not published now: {error}; it is tried again"
            )

    async def announce(self, manifest_bytes: bytes) -> None:
        """Tell everybody who listens of an adapter."""
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
