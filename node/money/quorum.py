"""Gathers witnesses' signatures under a header, as many as the settlement contract asks for.

Knows who they are by peer id; does not judge headers.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from p2p.errors import P2pError
from p2p.host import Host
from proofs.chain.client import ChainClient
from proofs.chain.errors import ChainError
from proofs.digest import Network
from proofs.epoch import EpochHeader
from proofs.errors import BadSignature
from proofs.signing import recover
from proofs.witness import witness_digest

from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire import witness as wire

CHAIN_DEADLINE_S = 20.0


class QuorumMissing(ChainError):
    """Too few witnesses signed a header; it is asked for again."""


class Quorum:
    """The witnesses of one network. `peers` are their peer ids."""

    def __init__(
        self, host: Host, chain: ChainClient, peers: Sequence[str], telemetry: Telemetry
    ) -> None:
        self._host = host
        self._chain = chain
        self._peers = tuple(peers)
        self._telemetry = telemetry

    @property
    def _network(self) -> Network:
        return self._chain.network

    async def gather(self, header: EpochHeader) -> list[bytes]:
        """Ask all witnesses at once; give a quorum of their signatures, by ascending address.

        Raises QuorumMissing, ChainError.
        """
        known, quorum = await in_thread(
            self._chain.settlement.witnesses, deadline_s=CHAIN_DEADLINE_S
        )
        signed: dict[bytes, bytes] = {}
        async with trio.open_nursery() as nursery:

            async def ask(peer_id: str) -> None:
                found = await self._ask(peer_id, header)
                if found is not None and found[0] in known:
                    signed[found[0]] = found[1]
                if len(signed) >= quorum:
                    nursery.cancel_scope.cancel()

            if quorum:
                for peer_id in self._peers:
                    nursery.start_soon(ask, peer_id)
        if len(signed) < quorum:
            raise QuorumMissing(
                f"{len(signed)} of {quorum} witnesses signed the header of epoch {header.epoch}"
            )
        return [signed[address] for address in sorted(signed)[:quorum]]

    async def _ask(self, peer_id: str, header: EpochHeader) -> tuple[bytes, bytes] | None:
        """Return a witness's address and signature; None when it gave none."""
        try:
            async with self._host.open_stream(
                peer_id, wire.PROTOCOL, wire.ATTEST_DEADLINE_S
            ) as stream:
                asked = msgspec.msgpack.encode(wire.Attest(header.encoded))
                await stream.send(asked, wire.ATTEST_DEADLINE_S)
                data = await stream.receive(wire.ATTEST_DEADLINE_S)
            answer = msgspec.msgpack.decode(data, type=wire.Attested | wire.Declined)
            if isinstance(answer, wire.Declined):
                self._telemetry.log(f"aggregator: witness {peer_id[-8:]} declines: {answer.reason}")
                return None
            digest = witness_digest(header.hash, self._network)
            return recover(digest, answer.signature), answer.signature
        except (P2pError, msgspec.MsgspecError, UnicodeError, BadSignature) as error:
            self._telemetry.log(f"aggregator: witness {peer_id[-8:]} gave no signature: {error}")
            return None
