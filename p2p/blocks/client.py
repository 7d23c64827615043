"""Fetches blocks from several peers at once: the trio shell around `exchange.Exchange`.

Does what the exchange decides and skips what the store has, so a fetch can be resumed. Does not
know which peers have a block; the caller brings them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio

from ..cid import Cid
from ..errors import FetchFailed, FrameTooLarge, P2pError, sole_error
from ..host import Host
from ..peers import PeerAddress
from .exchange import Action, Ask, BlockRef, Drop, Exchange, Keep, Rejection
from .limits import PROTOCOL
from .line import Line
from .rate import Rate

MAX_PROVIDERS = 8  # asked at once
CONNECT_TIMEOUT_S = 5.0
CHECK_INTERVAL_S = 0.1
BAN_S = 600.0
# Who is first leaves the others their share for a while: a connection takes six round trips, a
# stream over one that is open two, and all began at the same time.
PATIENCE = 10  # of the time that the first one took to be ready
MIN_PATIENCE_S = 0.05
MAX_PATIENCE_S = 0.3
ATTEMPTS_PER_PROVIDER = 2
RETRY_DELAY_S = 0.2
STAY_S = 2.0  # at a relay, before a stream past it is tried once more

logger = logging.getLogger(__name__)


class BlockSink(Protocol):
    """A place that a fetch writes to: a BlockStore."""

    def has(self, cid: Cid) -> bool:
        """Return whether the block is here already."""

    def put_verified(self, cid: Cid, data: bytes | memoryview) -> None:
        """Keep a block that was just hashed."""


@dataclass(frozen=True)
class BlockEvent:
    """Progress of a fetch.

    A block was kept, or rejected (`detail` says why), or its peer was lost.
    """

    kind: Literal["kept", "rejected", "lost"]
    peer_id: str
    cid: Cid | None = None
    num_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True)
class FetchReport:
    """The result of a fetch that brought everything.

    `num_bytes` counts verified bytes that came over the network, `num_resumed` the blocks that were
    here before.
    """

    num_bytes: int
    seconds: float
    verify_s: float
    blocks_by_peer: dict[str, int]
    rejected: list[Rejection]
    num_resumed: int = 0


async def fetch_blocks(
    host: Host,
    store: BlockSink,
    wanted: Sequence[BlockRef],
    providers: Sequence[PeerAddress],
    deadline_s: float,
    on_event: Callable[[BlockEvent], None] | None = None,
    rate: Rate | None = None,
) -> FetchReport:
    """Fetch all of `wanted` that the store lacks, no faster than `rate`.

    Raises FetchFailed; what was verified until then stays, so that the next call resumes.
    """
    missing = [ref for ref in {ref.cid: ref for ref in wanted}.values() if not store.has(ref.cid)]
    fetch = _Fetch(host, store, missing, on_event or (lambda event: None), rate or Rate())
    started = time.perf_counter()
    with trio.move_on_after(deadline_s) as scope:
        try:
            await fetch.run(providers)
        except BaseExceptionGroup as group:  # our own fault: a full disk, a failing on_event
            raise sole_error(group) from None
    if not fetch.exchange.is_done:
        raise fetch.failure(
            "the deadline passed" if scope.cancelled_caught else "no provider can bring them"
        )
    return FetchReport(
        num_bytes=fetch.num_bytes,
        seconds=time.perf_counter() - started,
        verify_s=fetch.verify_s,
        blocks_by_peer=dict(fetch.blocks_by_peer),
        rejected=fetch.exchange.rejected,
        num_resumed=len({ref.cid for ref in wanted}) - len(missing),
    )


class ReadableSink(BlockSink, Protocol):
    """A sink that can be read."""

    def get(self, cid: Cid) -> bytes | None:
        """Return the block, or None if it is not here."""


async def fetch_block(
    host: Host,
    store: ReadableSink,
    cid: Cid,
    max_bytes: int,
    providers: Sequence[PeerAddress],
    deadline_s: float,
) -> bytes:
    """Return one block of unknown size up to `max_bytes`, from the store or the providers.

    Raises FetchFailed.
    """
    data = store.get(cid)
    if data is None:
        await fetch_blocks(
            host, store, [BlockRef(cid, max_bytes)], providers, deadline_s=deadline_s
        )
        data = store.get(cid)
    if data is None or len(data) > max_bytes:
        raise FetchFailed(
            f"{cid} is not readable from the store, or over {max_bytes} bytes", missing=(str(cid),)
        )
    return data


@dataclass
class _Fetch:
    """One fetch under way. Everything but `run` and `_use` is plain bookkeeping."""

    host: Host
    store: BlockSink
    wanted: list[BlockRef]
    on_event: Callable[[BlockEvent], None]
    rate: Rate
    verify_s: float = 0.0
    num_bytes: int = 0
    blocks_by_peer: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    hopeful: set[str] = field(default_factory=set)  # providers that are being connected to

    def __post_init__(self) -> None:
        self.exchange = Exchange(self.wanted, self._verify)
        self._is_over = trio.Event()
        self._first_ready = trio.Event()
        self._is_patient = True

    async def run(self, providers: Sequence[PeerAddress]) -> None:
        """Use all providers until every block is here or nobody can bring the rest."""
        if self.exchange.is_done:
            return
        usable = self._usable(providers)
        self.hopeful = {provider.peer_id for provider in usable}
        self.reasons |= dict.fromkeys(self.hopeful, "has none of them")
        self.exchange.expect(len(self.hopeful), trio.current_time())
        async with trio.open_nursery() as nursery:
            for provider in usable:
                nursery.start_soon(self._use, provider)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._wait_for_others)
            await self._is_over.wait()
            nursery.cancel_scope.cancel()

    def failure(self, why: str) -> FetchFailed:
        """Make the error that says what is missing and what each provider did."""
        missing = tuple(str(cid) for cid in self.exchange.missing)
        reasons = tuple(self.reasons.items())
        told = (
            "; ".join(f"{peer_id}: {reason}" for peer_id, reason in reasons)
            or "no provider was given"
        )
        return FetchFailed(
            f"{len(missing)} of {len(self.wanted)} blocks are missing, first {missing[0]}: {why}"
            f" ({told})",
            missing,
            reasons,
        )

    def _usable(self, providers: Sequence[PeerAddress]) -> list[PeerAddress]:
        usable = []
        for provider in {provider.peer_id: provider for provider in providers}.values():
            ban = self.host.bans.find(provider.peer_id, trio.current_time())
            if ban is not None:
                self.reasons[provider.peer_id] = f"banned, {ban.reason}"
            elif provider.peer_id != self.host.peer_id:
                usable.append(provider)
        return usable[:MAX_PROVIDERS]

    async def _watch(self) -> None:
        """Judge deadlines, and end the fetch when it is over."""
        while not self.exchange.is_done and not (self.exchange.is_stuck and not self.hopeful):
            await trio.sleep(CHECK_INTERVAL_S)
            self._act(self.exchange.check_deadlines(trio.current_time()))
        self._is_over.set()

    async def _wait_for_others(self) -> None:
        """Leave the others their share until it is plain that they take long."""
        started = trio.current_time()
        await self._first_ready.wait()
        patience_s = PATIENCE * (trio.current_time() - started)
        await trio.sleep(min(max(patience_s, MIN_PATIENCE_S), MAX_PATIENCE_S))
        self._is_patient = False
        self._act(self.exchange.expect(0, trio.current_time()))

    def _lose_hope(self, peer_id: str) -> None:
        """This one is ready, or will not be."""
        self.hopeful.discard(peer_id)
        if self._is_patient:
            self._act(self.exchange.expect(len(self.hopeful), trio.current_time()))

    async def _use(self, provider: PeerAddress) -> None:
        """Ask one provider until it fails, and once more if it failed without malice."""
        for attempt in range(ATTEMPTS_PER_PROVIDER):
            try:
                await self._ask_until_lost(provider)
            except FrameTooLarge as error:
                self._act(self.exchange.reject(provider.peer_id, str(error), trio.current_time()))
            except P2pError as error:
                self.reasons[provider.peer_id] = str(error)
                self.on_event(BlockEvent("lost", provider.peer_id, detail=str(error)))
            self._act(self.exchange.lose_peer(provider.peer_id, trio.current_time()))
            if (
                self.host.bans.find(provider.peer_id, trio.current_time()) is not None
                or attempt + 1 == ATTEMPTS_PER_PROVIDER
            ):
                break
            self.hopeful.add(provider.peer_id)
            await trio.sleep(RETRY_DELAY_S)
        self._lose_hope(provider.peer_id)

    async def _ask_until_lost(self, provider: PeerAddress) -> None:
        peer_id = provider.peer_id
        await self.host.connect_to(provider, CONNECT_TIMEOUT_S)
        async with AsyncExitStack() as streams:
            open_stream = self.host.open_stream(peer_id, PROTOCOL, CONNECT_TIMEOUT_S)
            line = Line(await streams.enter_async_context(open_stream), len(self.wanted) + 1)
            self.lines[peer_id] = line
            with trio.CancelScope() as self.scopes[peer_id]:
                self._act(self.exchange.add_peer(peer_id, trio.current_time()))
                self._lose_hope(peer_id)
                self._first_ready.set()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(line.send_requests)
                        if line.is_relayed:
                            nursery.start_soon(self._leave_relay, peer_id, line, streams)
                        while True:  # the exchange, not the stream, judges who is late
                            answer = await line.receive()
                            self._act(self.exchange.answer(peer_id, answer, trio.current_time()))
                            await self._slow_down(peer_id, len(answer))
                except BaseExceptionGroup as group:
                    raise sole_error(group) from None
            await line.reset()

    async def _leave_relay(self, peer_id: str, line: Line, streams: AsyncExitStack) -> None:
        """Go on over a direct connection as soon as there is one; where the provider takes no more
        streams, try again later.
        """
        while line.is_relayed:
            await trio.sleep(CHECK_INTERVAL_S)
            if self.host.is_direct(peer_id):
                try:
                    open_stream = self.host.open_stream(peer_id, PROTOCOL, CONNECT_TIMEOUT_S)
                    line.move_to(await streams.enter_async_context(open_stream))
                except P2pError as error:
                    logger.debug("%s is asked through its relay still: %s", peer_id, error)
                    await trio.sleep(STAY_S)

    async def _slow_down(self, peer_id: str, num_bytes: int) -> None:
        until = self.rate.reserve(num_bytes)
        if until > trio.current_time():
            self.exchange.excuse(peer_id, until)
            await trio.sleep_until(until)

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Ask(peer_id, cids):
                    self.lines[peer_id].ask(cids)
                case Keep(peer_id, cid, data):
                    self.store.put_verified(cid, data)
                    self._count(peer_id, cid, len(data))
                case Drop(peer_id, reason, is_hostile):
                    self._drop(peer_id, reason, is_hostile)
        if self.exchange.is_done:
            self._is_over.set()

    def _count(self, peer_id: str, cid: Cid, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self.blocks_by_peer[peer_id] += 1
        self.on_event(BlockEvent("kept", peer_id, cid, num_bytes))

    def _drop(self, peer_id: str, reason: str, is_hostile: bool) -> None:
        self.reasons[peer_id] = reason
        if is_hostile:
            self.host.bans.ban(peer_id, reason, trio.current_time(), BAN_S)
        self.on_event(BlockEvent("rejected", peer_id, detail=reason))
        if peer_id in self.scopes:
            self.scopes[peer_id].cancel()

    def _verify(self, cid: Cid, data: bytes) -> bool:
        started = time.perf_counter()
        is_right = cid.matches(data)
        self.verify_s += time.perf_counter() - started
        return is_right
