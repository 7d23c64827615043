"""Multistream-select that greets and asks in one message: one round trip for each agreement, not
two. A connection takes four of its six, a stream one of its two.

Any responder understands it: what it reads is the same. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from libp2p.abc import IMultiselectCommunicator
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_client import DEFAULT_NEGOTIATE_TIMEOUT, MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils import encode_delim


class QuickMultiselectClient(MultiselectClient):
    """A client that does not wait for the greeting's answer before it asks."""

    async def select_one_of(
        self,
        protocols: Sequence[TProtocol],
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = DEFAULT_NEGOTIATE_TIMEOUT,
    ) -> TProtocol:
        """Return the first of these protocols that the other side speaks.

        Raises MultiselectClientError.
        """
        assert isinstance(communicator, MultiselectCommunicator)
        ahead = _Ahead(communicator, protocols[0])
        return await super().select_one_of(protocols, ahead, negotiate_timeout)


class _Ahead(IMultiselectCommunicator):
    """Sends the first question together with the greeting, and not a second time."""

    def __init__(self, inner: MultiselectCommunicator, first: str) -> None:
        self._inner = inner
        self._first = first
        self._num_written = 0

    async def write(self, msg_str: str) -> None:
        """Send a message."""
        self._num_written += 1
        if self._num_written == 1:
            both = encode_delim(msg_str.encode()) + encode_delim(self._first.encode())
            try:
                await self._inner.read_writer.write(both)
            except IOException as error:
                raise MultiselectCommunicatorError("the greeting could not be sent") from error
        elif self._num_written > 2 or msg_str != self._first:
            await self._inner.write(msg_str)

    async def read(self) -> str:
        """Return the next message."""
        return await self._inner.read()
