"""The line to one provider of a fetch: the stream that is asked, and where a better connection has
come meanwhile, the stream that takes its place.

    requests ──▶ the newest stream          answers ◀── the older one until it owes nothing,
                                                        then the newest

So what was asked through a relay still arrives, in order, and nothing is asked twice. Decides
neither what is asked nor when to move.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import trio

from ..cid import Cid
from ..errors import P2pError
from ..streams import FrameStream
from .limits import MAX_BLOCK_BYTES, encode_request

SEND_TIMEOUT_S = 10.0


@dataclass
class _Way:
    """A stream, and how many answers it owes."""

    stream: FrameStream
    num_owed: int = 0


class Line:
    """One provider's streams, the newest last. One task receives, one runs `send_requests`."""

    def __init__(self, stream: FrameStream, max_requests: int) -> None:
        self._ways = deque([_Way(stream)])
        self._waiting = trio.CancelScope()
        self._send, self._requests = trio.open_memory_channel[Sequence[Cid]](max_requests)

    @property
    def is_relayed(self) -> bool:
        """Return whether a relay carries what is asked from now on."""
        return self._ways[-1].stream.is_relayed

    def ask(self, cids: Sequence[Cid]) -> None:
        """Have these blocks asked for."""
        self._send.send_nowait(cids)

    async def send_requests(self) -> None:
        """Send what is asked, until cancelled. A failure ends the stream, which the receiver
        reports.
        """
        with suppress(P2pError):
            async for cids in self._requests:
                way = self._ways[-1]
                way.num_owed += len(cids)
                await way.stream.send(encode_request(cids), SEND_TIMEOUT_S)

    async def receive(self) -> bytes:
        """Return the next answer, in the order in which they were asked for. Raises P2pError."""
        while True:
            while len(self._ways) > 1 and self._ways[0].num_owed <= 0:
                await self._ways.popleft().stream.close()
            with trio.CancelScope() as self._waiting:
                way = self._ways[0]
                answer = await way.stream.receive(inf, max_bytes=MAX_BLOCK_BYTES)
                way.num_owed -= 1
                return answer

    def move_to(self, stream: FrameStream) -> None:
        """Ask on this stream from now on."""
        self._ways.append(_Way(stream))
        self._waiting.cancel()

    async def reset(self) -> None:
        """End all streams at once."""
        for way in self._ways:
            await way.stream.reset()
