"""Lets connections in: has each do its handshake in time, and somebody leave where there are too
many.

admission.py decides, the swarm shakes hands and hangs up. Knows neither protocol nor address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import IMuxedConn, IRawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from .admission import MAX_HANDSHAKES, Guest, Guests, Line
from .websocket.stream import WebSocketStream

HANDSHAKE_TIMEOUT_S = 10.0
NEW_S = 10.0  # so long nobody is expected to do anything yet


class Entrance:
    """The inbound connections of a swarm. `serves_dht` tells a node from a visitor."""

    def __init__(self, hang_up: Callable[[IMuxedConn], Awaitable[None]]) -> None:
        self.serves_dht: Callable[[ID], bool] = _nobody  # until the host knows
        self.guests = Guests()
        self._hang_up = hang_up
        self._open: dict[Guest, tuple[IMuxedConn, float]] = {}  # since when
        self._handshakes = Line(MAX_HANDSHAKES)

    async def receive(
        self, raw_conn: IRawConnection, shake_hands: Callable[[], Awaitable[IMuxedConn]]
    ) -> None:
        """Make a connection of a socket that came in, and return when that has ended.

        Raises SwarmException where there is no place for it.
        """
        guest = self.guests.enter(_counted_ip(raw_conn))
        if guest is None:
            raise SwarmException("its network has enough connections here")
        try:
            muxed = await self._open_in_time(shake_hands)
            guest.is_open = True
            self._open[guest] = muxed, trio.current_time()
            await self._make_room()
            await muxed.event_closed.wait()  # type: ignore[attr-defined]
        finally:
            self._open.pop(guest, None)
            self.guests.leave(guest)

    async def _open_in_time(self, shake_hands: Callable[[], Awaitable[IMuxedConn]]) -> IMuxedConn:
        with self._handshakes.place(HANDSHAKE_TIMEOUT_S):
            return await shake_hands()
        raise SwarmException("its handshake took too long, or others needed the place")

    async def _make_room(self) -> None:
        leaver = self.guests.find_leaver(self._is_visitor, self._is_idle)
        if leaver is not None:
            muxed, _ = self._open[leaver]
            await self._hang_up(muxed)

    def _is_visitor(self, guest: Guest) -> bool:
        muxed, _ = self._open[guest]
        return not self.serves_dht(muxed.peer_id)

    def _is_idle(self, guest: Guest) -> bool:
        muxed, since = self._open[guest]
        is_new = trio.current_time() < since + NEW_S
        return not (is_new or muxed.streams)  # type: ignore[attr-defined]


def _nobody(peer: ID) -> bool:
    return False


def _counted_ip(raw_conn: IRawConnection) -> str | None:
    """Return the IP address whose place a raw connection takes."""
    below = getattr(raw_conn, "stream", None)
    if isinstance(below, WebSocketStream):
        return below.counted_ip
    remote = raw_conn.get_remote_address()
    return remote[0] if remote is not None else None
