"""Holds every mend of py-libp2p 0.8.1 that this node relies on, in one place, because many touch
its private attributes.

Each class says what it mends; tests/p2p/test_hardening.py shows each fault. Pinned to 0.8.1: read
this again before raising the pin.

- An exception in any background task, stream handler, validator or message parser costs that task
  or stream, never the host.
- A peer that opens streams without end or floods a topic is cut off; nothing it sends grows without
  bound (its receive windows: transport/).
- A stream that is ended or opened while this process is late is not kept: the library lists one for
  as long as its connection lasts if it is cancelled in between.
- Addresses are told as they are: through a relay too, which the library would cut off.
- The DHT speaks under the network's own protocol id, so that two networks never mix.

Adds no behaviour of its own, and knows no protocol of ours.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import libp2p.network.swarm as swarm_module
import trio
from libp2p.abc import IMuxedStream, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID as LIBRARY_DHT_PROTOCOL
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.tools.anyio_service.trio_manager import TrioManager
from multiaddr import Multiaddr

from .transport import FastYamuxStream, QuickMultiselectClient

MAX_INBOUND_STREAMS_PER_PEER = 128
DAEMON_RESTART_DELAY_S = 1.0
IDENTIFY_TIMEOUT_S = 10.0

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

_library_close = NetStream.close
_library_reset = NetStream.reset
_library_add_stream = SwarmConn._add_stream


async def _close(self: NetStream) -> None:
    """Close a stream, and take it off its connection's list even if that is cancelled: a deadline
    is over before the library comes to that where the process had no turn for so long.
    """
    try:
        await _library_close(self)
    finally:
        _unlist(self)


async def _reset(self: NetStream) -> None:
    """Reset a stream, and take it off its connection's list even if that is cancelled."""
    try:
        await _library_reset(self)
    finally:
        _unlist(self)


def _unlist(stream: NetStream) -> None:
    if stream.swarm_conn is not None:
        stream.swarm_conn.remove_stream(stream)


async def _add_stream(self: SwarmConn, muxed_stream: IMuxedStream) -> NetStream:
    """List a stream, unless that is cancelled: then nobody has it, and it is ended."""
    try:
        return await _library_add_stream(self, muxed_stream)
    except BaseException:  # cancelled in between; it is raised again
        for stream in self.get_streams():
            if stream.muxed_stream is muxed_stream:
                self.remove_stream(stream)
        assert isinstance(muxed_stream, FastYamuxStream)
        muxed_stream.reset_now()
        raise


NetStream.close = _close  # type: ignore[method-assign]
NetStream.reset = _reset  # type: ignore[method-assign]
SwarmConn._add_stream = _add_stream  # type: ignore[method-assign]


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


class HardenedHost(BasicHost):
    """A host that speaks the library's DHT protocol under this network's name."""

    def __init__(self, *args: Any, network_name: str, **kwargs: Any) -> None:
        self.dht_protocol = dht_protocol(network_name)
        self.told: Callable[[], Sequence[Multiaddr]] = list  # until Reach knows better
        super().__init__(*args, **kwargs)
        self.multiselect_client = QuickMultiselectClient()

    def get_addrs(self) -> list[Multiaddr]:
        """List the addresses that peers are told, each ending in /p2p/ and this host's peer id.

        The library cuts at the first /p2p/, and so tells a relay's address as this host's.
        """
        own = Multiaddr(f"/p2p/{self.get_id()}")
        return [address.encapsulate(own) for address in self.told()]

    def protocols_served(self) -> tuple[str, ...]:
        """List what this host answers to."""
        return tuple(str(protocol) for protocol in self.get_mux().get_protocols() if protocol)

    async def push_identify(self) -> None:
        """Tell all connected peers that our addresses or protocols have changed.

        Who does not take it in time may ask.
        """
        with trio.move_on_after(IDENTIFY_TIMEOUT_S):
            await self._push_identify_to_all_peers()

    async def identify_again(self, peer: ID) -> None:
        """Ask a connected peer what it serves and where it is reached. The library asks once a
        connection, and never again when that failed.
        """
        with trio.move_on_after(IDENTIFY_TIMEOUT_S):
            await self._identify_peer(peer, reason="again")

    def _named(self, protocol: TProtocol) -> TProtocol:
        return self.dht_protocol if protocol == LIBRARY_DHT_PROTOCOL else protocol

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

    def serves_dht(self, peer: ID) -> bool:
        """Whether a peer has said that it serves this network's DHT."""
        return self.dht_protocol in self.protocols_of(peer)

    def may_serve_dht(self, peer: ID) -> bool:
        """Whether a peer serves this network's DHT, or has not said yet what it serves."""
        protocols = self.protocols_of(peer)
        return not protocols or self.dht_protocol in protocols

    def told_by(self, peer: ID) -> list[Multiaddr]:
        """List the addresses that a peer tells, without its own /p2p/ ending."""
        try:
            return [
                Multiaddr(str(one).removesuffix(f"/p2p/{peer}"))
                for one in self.peerstore.addrs(peer)
            ]
        except PeerStoreError:
            return []

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
