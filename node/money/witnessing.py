"""Signs, as a witness, a header that it recomputed itself and whose batch it keeps and provides, so
that no header without its data opens claims.

Does not judge whether channels are funded: whoever does has the challenge window for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from p2p.errors import P2pError
from p2p.streams import FrameStream
from proofs.batch import decode_batch, recompute
from proofs.chain.errors import ChainError
from proofs.digest import Network
from proofs.epoch import EpochHeader, decode_header
from proofs.errors import BatchError
from proofs.history import History
from proofs.policies import Policies
from proofs.signing import Signer
from proofs.witness import sign_header

from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire import witness as wire
from .mirror import Mirror
from .published import Published

IDLE_DEADLINE_S = 20.0


class Witness:
    """Answers an aggregator that asks for a signature under its next header."""

    def __init__(
        self,
        signer: Signer,
        mirror: Mirror,
        published: Published,
        telemetry: Telemetry,
        *,
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_paused = is_paused
        self._signer = signer
        self._mirror = mirror
        self._published = published
        self._telemetry = telemetry

    @property
    def _network(self) -> Network:
        return self._mirror.network

    async def serve(self, stream: FrameStream) -> None:
        """Answer one request."""
        try:
            asked = msgspec.msgpack.decode(await stream.receive(IDLE_DEADLINE_S), type=wire.Attest)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._telemetry.reject("message", stream.remote, str(error))
            return
        answer = await self._answer(decode_header(asked.header), stream.remote)
        await stream.send(msgspec.msgpack.encode(answer), wire.ATTEST_DEADLINE_S)

    async def _answer(self, header: EpochHeader, peer_id: str) -> wire.Attested | wire.Declined:
        if self._is_paused():
            return wire.Declined("the network's guardian paused posting")
        try:
            await self._verify(header, peer_id)
        except BatchError as error:
            self._telemetry.reject("header", peer_id, str(error))
            return wire.Declined(str(error)[: wire.MAX_REASON_CHARS])
        except (P2pError, ChainError, trio.TooSlowError) as error:
            return wire.Declined(str(error)[: wire.MAX_REASON_CHARS])
        self._telemetry.count("headers_attested")
        return wire.Attested(sign_header(self._signer, header.hash, self._network))

    async def _verify(self, header: EpochHeader, peer_id: str) -> None:
        history = self._mirror.history
        if header.previous != history.state.header_hash:
            raise BatchError(
                "previous", f"this witness stands at epoch {history.state.epoch}; ask again"
            )
        before = self._mirror.last_posted()
        if before is None and history.state.epoch:
            raise BatchError("previous", "this witness has not read the chain yet; ask again")
        policies = await self._mirror.policies_in(before.posted_at if before else 0)
        batch = await self._published.batch(header.batch_digest, [peer_id])
        manifests = await self._published.manifests(
            decode_batch(batch).adapters, hashlib.sha256(batch).digest()
        )
        found = await in_thread(
            partial(_plan_header, history, batch, manifests, policies),
            deadline_s=wire.ATTEST_DEADLINE_S,
        )
        if found != header:
            raise BatchError("header", "it is another one than its batch gives")
        await self._published.provide(batch, manifests.values())


def _plan_header(
    history: History, batch: bytes, manifests: dict[bytes, bytes], policies: Policies
) -> EpochHeader:
    return recompute(batch, history.state, manifests, policies).header
