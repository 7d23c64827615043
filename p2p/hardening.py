"""Holds every mend of py-libp2p 0.8.1 that this node relies on, in one place, because many touch
its private attributes.

Each class says what it mends; tests/p2p/test_hardening.py shows each fault. Pinned to 0.8.1: read
this again before raising the pin.

- An exception in any background task, stream handler, validator or message parser costs that task
  or stream, never the host.
- A peer that opens streams without end or floods a topic is cut off; nothing it sends grows without
  bound (its receive windows: transport/).
- An inbound connection gives its slot back when it ends (the library keeps it until the host stops:
  deaf after 300 connections).
- A dial tries every address; a failed one does not block a corrected one. Dead peers are not
  dialled again by the library itself.
- The DHT speaks under the network's own protocol id, so that two networks never mix.

Adds no behaviour of its own, and knows no protocol of ours.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import libp2p.network.swarm as swarm_module
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID as LIBRARY_DHT_PROTOCOL
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.tools.anyio_service.trio_manager import TrioManager
from multiaddr import Multiaddr

MAX_INBOUND_STREAMS_PER_PEER = 128
MAX_ADDRESSES_PER_DIAL = 8
DIAL_ADDRESS_TIMEOUT_S = 5.0
FAILED_ADDRESS_MEMORY_S = 20.0
MAX_FAILED_ADDRESSES = 10_000
DAEMON_RESTART_DELAY_S = 1.0

logger = logging.getLogger(__name__)

if not os.environ.get("LIBP2P_DEBUG"):
    logging.getLogger("libp2p").addHandler(
        logging.NullHandler()
    )  # its warnings are about peers, not about us
swarm_module._HAPPY_EYEBALLS_DELAY = (
    0.01  # the library's own dial loop, should anything still reach it
)


# --- tasks ---


class GuardedManager(TrioManager):
    """Runs a library service whose tasks may fail: a failed task is logged, a failed daemon task
    runs again after a second.

    Tasks have no parents here: the library walks all of them to find one, which is quadratic under
    a flood, and kills the host at 1,000 children.
    """

    def run_task(
        self,
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        """Start a task whose failure stays its own.

        The service's own `run` is not guarded: without it there is no service.
        """
        guarded = async_fn if _internal else partial(_run_again if daemon else _run_once, async_fn)
        task_name = name or getattr(async_fn, "__qualname__", repr(async_fn))
        super().run_task(guarded, *args, daemon=daemon, name=task_name, _internal=_internal)

    def _find_parent_task(self, trio_task: trio.lowlevel.Task) -> None:
        return None


async def _run_once(async_fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
    try:
        await async_fn(*args)
    except Exception as error:  # the top of one of the library's tasks
        logger.info(
            "a task of libp2p failed: %s: %r", getattr(async_fn, "__qualname__", async_fn), error
        )


async def _run_again(async_fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
    while True:
        await _run_once(async_fn, *args)
        await trio.sleep(DAEMON_RESTART_DELAY_S)


@asynccontextmanager
async def run_service(service: Any) -> AsyncIterator[None]:
    """Run a library service under a GuardedManager for as long as the block runs."""
    async with trio.open_nursery() as nursery:
        manager = GuardedManager(service)
        service._manager = manager
        nursery.start_soon(manager.run)
        await manager.wait_started()
        try:
            yield
        finally:
            manager.cancel()
            nursery.cancel_scope.cancel()


# --- streams ---


class StreamGuard:
    """Calls a stream handler so that its failure resets only its stream, and bounds the streams of
    one peer.
    """

    def __init__(self, handler: StreamHandlerFn, limit: int = MAX_INBOUND_STREAMS_PER_PEER) -> None:
        self._handler = handler
        self._limit = limit
        self._num_open: Counter[ID] = Counter()

    async def __call__(self, stream: INetStream) -> None:
        """Handle one inbound stream; raises nothing."""
        peer_id = stream.muxed_conn.peer_id
        if self._num_open[peer_id] >= self._limit:
            await stream.reset()
            return
        self._num_open[peer_id] += 1
        try:
            await self._handler(stream)
        except Exception as error:  # the top of one stream that the library's own code handles
            logger.info("a stream of %s failed: %r", peer_id, error)
            await stream.reset()
        finally:
            self._num_open[peer_id] -= 1
            if not self._num_open[peer_id]:
                del self._num_open[peer_id]


# --- connections ---


class NoAutoConnector(AutoConnector):
    """Dials nobody.

    The library's would fill up to 150 connections with whoever it ever heard of, dead or alive.
    """

    async def maybe_connect(self) -> None:
        """Do nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Do nothing."""


class HardenedSwarm(Swarm):
    """Guards every inbound stream, frees inbound slots, and tries all addresses of a peer
    in turn.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed_until: dict[tuple[str, str], float] = {}
        self._dialling: dict[ID, trio.Lock] = {}
        self.auto_connector = NoAutoConnector(self)

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Install the handler of all inbound streams, guarded."""
        self.common_stream_handler = StreamGuard(stream_handler)

    async def upgrade_inbound_raw_conn(
        self, raw_conn: IRawConnection, maddr: Multiaddr
    ) -> IMuxedConn:
        """Serve an inbound connection to its end, then free its slot (the library would wait for
        the host to stop).
        """
        muxed = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
        # The library gives a slot back when this method fails; so it has to fail, once the
        # connection is over.
        await muxed.event_closed.wait()  # type: ignore[attr-defined]
        raise SwarmException("the connection has ended")

    def begin_closing(self) -> None:
        """Take and dial no more connections."""
        self._closing = True

    async def close_listeners(self) -> None:
        """Stop listening everywhere."""
        for listener in list(self.listeners.values()):
            await listener.close()

    async def close_peer(self, peer_id: ID) -> None:
        """Close this peer's connections, and those that somebody opened meanwhile (the library
        would forget these and leave them open).
        """
        while connections := self.get_connections(peer_id):
            for connection in connections:
                await connection.close()  # takes itself off the list

    def forget_failures(self, peer_id: ID) -> None:
        """Let the next dial of this peer try every address."""
        for key in [key for key in self._failed_until if key[0] == str(peer_id)]:
            del self._failed_until[key]

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Return the peer's open connections, or a new one to the first address that answers.

        Raises SwarmException.
        """
        # One dial per peer at a time: two tasks that want it would open two connections.
        lock = self._dialling.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                return self._live_connections(peer_id) or [await self._dial_any(peer_id)]
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dialling.pop(peer_id, None)

    def _live_connections(self, peer_id: ID) -> list[INetConn]:
        return [
            connection for connection in self.get_connections(peer_id) if not connection.is_closed
        ]

    async def _dial_any(self, peer_id: ID) -> INetConn:
        addresses = self._dialable(peer_id)
        if not addresses:
            raise SwarmException(
                f"no address of {peer_id} to try: none is known, or all failed within"
                f" {FAILED_ADDRESS_MEMORY_S:.0f} s"
            )
        for address in addresses:
            try:
                with trio.fail_after(DIAL_ADDRESS_TIMEOUT_S):
                    return await self._dial_addr_single_attempt(address, peer_id)
            except (SwarmException, trio.TooSlowError) as error:
                logger.debug("dialling %s at %s: %r", peer_id, address, error)
                self._note_failure(peer_id, address)
        raise SwarmException(f"none of {len(addresses)} addresses of {peer_id} answered")

    def _dialable(self, peer_id: ID) -> list[Multiaddr]:
        if peer_id == self.self_id:
            raise SwarmException("a node does not dial itself")
        try:
            known = self.peerstore.addrs(peer_id)
        except PeerStoreError:
            return []
        now = time.monotonic()
        fresh = (
            address
            for address in known
            if self._failed_until.get((str(peer_id), str(address)), 0.0) < now
        )
        return [
            address
            for address in fresh
            if self.transport_manager.transport_for_dialing(address) is not None
        ][:MAX_ADDRESSES_PER_DIAL]

    def _note_failure(self, peer_id: ID, address: Multiaddr) -> None:
        # Forgetting all only costs a few dials more; choosing whom to forget would cost a second
        # index.
        if len(self._failed_until) >= MAX_FAILED_ADDRESSES:
            self._failed_until.clear()
        self._failed_until[str(peer_id), str(address)] = time.monotonic() + FAILED_ADDRESS_MEMORY_S


class HardenedHost(BasicHost):
    """A host that speaks the library's DHT protocol under this network's name."""

    def __init__(self, *args: Any, network_name: str, **kwargs: Any) -> None:
        self._dht_protocol = dht_protocol(network_name)
        super().__init__(*args, **kwargs)

    def _named(self, protocol: TProtocol) -> TProtocol:
        return self._dht_protocol if protocol == LIBRARY_DHT_PROTOCOL else protocol

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        """Serve a protocol."""
        super().set_stream_handler(self._named(protocol_id), stream_handler)

    def remove_stream_handler(self, protocol_id: TProtocol) -> None:
        """Serve a protocol no longer."""
        super().remove_stream_handler(self._named(protocol_id))

    def protocols_of(self, peer: ID) -> tuple[str, ...]:
        """What a peer serves; nothing until it has identified itself."""
        try:
            return tuple(self.peerstore.get_protocols(peer))
        except PeerStoreError:
            return ()

    async def stop_background(self) -> None:
        """Cancel what the library runs outside any nursery of ours."""
        for scope in list(self._identify_tasks):
            scope.cancel()
        await self._shutdown_background_services()

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Open a stream."""
        return await super().new_stream(
            peer_id, [self._named(protocol) for protocol in protocol_ids]
        )


def dht_protocol(network: str) -> TProtocol:
    """Return the DHT's protocol id in a network."""
    return TProtocol(f"/{network}/kad/1.0.0")
