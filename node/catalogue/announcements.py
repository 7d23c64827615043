"""Listens to what is said of adapters and names on the network, and says what this node has.

    heard:  an adapter or a name on its topic → its creator's signature holds → forwarded, kept
    said:   provider records, signed names, adapters and names on the topics

Decides which announcements are forwarded. Fetches no adapter, and decides neither which are held
nor when to speak.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio
from trio_typing import TaskStatus

from p2p.cid import Cid
from p2p.errors import InvalidNameRecord, NameRefused, P2pError, StaleName
from p2p.gossip import GossipMessage, Validate, Verdict
from p2p.names import NameRecord, check_date, decode_name, encode_name
from proofs.errors import ProofError
from proofs.manifest import ManifestError

from ..telemetry import Telemetry
from .about import MAX_ANNOUNCEMENT_BYTES, Announcement, parse_announcement
from .book import write_whole
from .known import Known

TOPIC = "adapters"
NAMES_TOPIC = "names"
SAVE_INTERVAL_S = 60.0


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


class KeptNames(Protocol):
    """What a node answers others with: implemented by p2p.dht.Dht."""

    def learn_name(self, record: NameRecord) -> bool:
        """Keep a record that was checked."""


class Announcer:
    """Says on the network what this node has.

    Where nobody answers, that is logged and the caller repeats it in time; where others are there
    and do not believe a name, its error is the caller's.
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

    async def put_name(self, record: NameRecord) -> int:
        """Publish a name; return how many others hold it now.

        Raises StaleName for one that is older than what others know, NameRefused and
        InvalidNameRecord for one that nobody believes.
        """
        try:
            num_holders = await self._records.put_name(record)
            await self._topics.publish(NAMES_TOPIC, encode_name(record))
        except (StaleName, NameRefused, InvalidNameRecord):
            raise
        except P2pError as error:
            self._log(
                f"announcements: the name {record.name} was not published now: {error}; it is"
                " tried again"
            )
            return 0
        return num_holders

    async def announce(self, announcement: Announcement) -> None:
        """Tell every listener about an adapter, unless its manifest is too large for that."""
        data = announcement.encode()
        if len(data) <= MAX_ANNOUNCEMENT_BYTES:
            await self._topics.publish(TOPIC, data)


async def run_announcements(
    topics: Topics,
    known: Known | None,
    kept: KeptNames,
    telemetry: Telemetry,
    clock: Callable[[], float] = time.time,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward announcements whose creator signed them, and remember them, until cancelled.

    `known` is None at daemons that forward only.
    """

    def judge_adapter(data: bytes, from_peer: str) -> Verdict:
        try:
            parse_announcement(data)
        except ManifestError as error:
            telemetry.reject("announcement", from_peer, str(error))
            return Verdict.REJECT
        return Verdict.ACCEPT

    def judge_name(data: bytes, from_peer: str) -> Verdict:
        try:
            record = decode_name(data)
        except InvalidNameRecord as error:
            telemetry.reject("name", from_peer, str(error))
            return Verdict.REJECT
        try:
            check_date(record, clock())
        except InvalidNameRecord as error:  # its clock may be wrong, or ours
            telemetry.log(f"announcements: {error}")
            return Verdict.IGNORE
        return Verdict.ACCEPT

    adapters = await topics.subscribe(TOPIC, judge_adapter)
    names = await topics.subscribe(NAMES_TOPIC, judge_name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hear_names, names, known, kept, telemetry)
        task_status.started()
        async for message in adapters:
            telemetry.count("announcements_heard")
            if known is not None:
                known.learn(parse_announcement(message.data), message.from_peer)


async def _hear_names(
    names: trio.MemoryReceiveChannel[GossipMessage],
    known: Known | None,
    kept: KeptNames,
    telemetry: Telemetry,
) -> None:
    async for message in names:
        telemetry.count("names_heard")
        record = decode_name(message.data)
        kept.learn_name(record)
        if known is not None:
            known.learn_name(record)


class Kept(Protocol):
    """What is written to a file when it changed."""

    is_dirty: bool

    def encode(self) -> bytes:
        """Return all of it; it is not dirty any more."""


def load_saved(
    load: Callable[[Path], None], path: Path, log: Callable[[str], None], lost: str
) -> None:
    """Load what was saved before a restart. What cannot be read is left where it is, and the log
    says what is `lost` by that.
    """
    try:
        load(path)
    except (OSError, ValueError, ProofError) as error:
        log(f"daemon: {path} was not read: {error}; {lost}")


async def keep_saved(known: Kept, path: Path, log: Callable[[str], None]) -> None:
    """Write what is known to a file now and then, until cancelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        await trio.sleep(SAVE_INTERVAL_S)
        if known.is_dirty:
            try:
                await trio.to_thread.run_sync(write_whole, path, known.encode())
            except OSError as error:
                log(f"announcements: {path} was not written: {error}; it is tried again")
