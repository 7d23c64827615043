"""Makes connections fast: libp2p's own negotiation and handshake, then the fast session and muxer.

Decides nothing else.
"""

from __future__ import annotations

import time
from typing import Any

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux
from libp2p.transport.upgrader import TransportUpgrader

from .meter import Meters
from .muxer import FastYamux
from .negotiation import QuickMultiselectClient
from .noise import SCRATCH_BYTES, FastSession


class FastUpgrader(TransportUpgrader):
    """A TransportUpgrader for Noise and Yamux, and nothing else. Counts each peer's bytes in
    `meters`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.meters = Meters()
        for agreeing in (self.security_multistream, self.muxer_multistream):
            agreeing._selector.multiselect_client = QuickMultiselectClient()

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        """Shake hands; Raises SecurityUpgradeFailure."""
        session = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        assert isinstance(session, SecureSession)
        meter = self.meters.of(str(session.remote_peer), time.time())
        return FastSession(session, raw_conn, self._scratch, meter)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on Yamux. Raises MuxerUpgradeFailure."""
        agreed = await super().upgrade_connection(conn, peer_id)
        assert isinstance(agreed, Yamux)
        muxed = FastYamux(conn, peer_id, is_initiator=conn.is_initiator, on_close=agreed.on_close)
        return MuxerMultistream._annotate_connection(muxed, conn, TProtocol(PROTOCOL_ID))
