"""Gives blocks to any peer that asks.

Bounds the blocks of a request, the streams of a peer and the time an answer may take. Does not know
what a block belongs to, and bans nobody.
"""

from __future__ import annotations

from typing import Protocol

from ..cid import Cid
from ..errors import PeerTimeout, StreamClosed
from ..host import Host
from ..streams import FrameStream
from .limits import ABSENT, MAX_BLOCK_BYTES, MAX_REQUEST_BYTES, PROTOCOL, decode_request
from .rate import Rate

STREAMS_PER_PEER = 4
IDLE_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 30.0


class BlockSource(Protocol):
    """A place that a server reads from: a BlockStore, or anything that finds bytes by CID."""

    def get(self, cid: Cid) -> bytes | None:
        """Return the block, or None if it is not here."""


def serve_blocks(host: Host, store: BlockSource, rate: Rate | None = None) -> None:
    """Answer block requests from `store` for as long as the host is open, no faster than `rate`."""
    bound = rate or Rate()

    async def handle(stream: FrameStream) -> None:
        await serve_stream(stream, store, bound)

    host.serve(PROTOCOL, handle, streams_per_peer=STREAMS_PER_PEER)


async def serve_stream(stream: FrameStream, store: BlockSource, rate: Rate) -> None:
    """Answer each request in order, each block as one frame, with an empty frame for what is not
    here.

    Returns when the peer ends the stream.
    """
    while True:
        try:
            request = await stream.receive(IDLE_TIMEOUT_S, max_bytes=MAX_REQUEST_BYTES)
        except (StreamClosed, PeerTimeout):
            return
        for cid in decode_request(request):
            block = store.get(cid)
            if block is None or len(block) > MAX_BLOCK_BYTES:
                block = ABSENT
            await rate.take(len(block))
            await stream.send(block, ANSWER_TIMEOUT_S)
