"""Replays answers for clients without an engine, who paid this node for it.

Decides for which receipts of its own it replays: each once, soon, for its own client alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from p2p.errors import P2pError
from p2p.streams import FrameStream
from proofs.attestation.record import Opening, check_opening, prompt_in
from proofs.errors import AttestationError, ReceiptError
from proofs.receipt import Receipt, decode_body, decode_receipt, digest_of

from ..money.addresses import address_of_peer
from ..telemetry import Telemetry
from ..wire import replay as wire
from ..wire.infer import WireError
from .replaying import Replayed, Verifier, answer_in

LISTEN_DEADLINE_S = 20.0
SEND_DEADLINE_S = 10.0
MAX_USED = 4_096
VALID_S = 600  # so long a receipt is good for a replay


class Lender:
    """The replays for others, of one daemon; `find` gives a signed receipt of its ledger by its
    digest, `own` is its address.
    """

    def __init__(
        self,
        verifier: Verifier,
        find: Callable[[bytes], bytes | None],
        own: bytes,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._find = find
        self._own = own
        self._telemetry = telemetry
        self._clock = clock
        self._used: dict[bytes, None] = {}

    async def serve(self, stream: FrameStream) -> None:
        """Answer one question."""
        try:
            frame = await stream.receive(LISTEN_DEADLINE_S, max_bytes=wire.MAX_ASKED_BYTES)
            asked = wire.decode_ask(frame)
        except (P2pError, WireError) as error:
            self._telemetry.reject("message", stream.remote, str(error))
            await stream.reset()
            return
        answer = await self._answer(asked, address_of_peer(stream.remote))
        await stream.send(wire.encode(answer), SEND_DEADLINE_S)

    async def _answer(self, asked: wire.AskReplay, client: bytes) -> wire.Attested | wire.Declined:
        try:
            receipt = decode_body(asked.body)
            check_opening(asked.opening, receipt)
            reason = self._find_obstacle(asked, receipt, client)
            if reason is not None:
                return wire.Declined(reason)
            self._use(asked.paid)
            answer = answer_in(digest_of(asked.body), asked.opening)
            found = await self._verifier.replay(asked.body, asked.node_signature, answer)
        except (AttestationError, ReceiptError) as error:
            return wire.Declined(str(error)[:1000])
        if not isinstance(found, Replayed) or not found.told.attestation:
            told = found.told if isinstance(found, Replayed) else found
            return wire.Declined(told.reason[:1000])
        self._telemetry.count("answers_replayed_for_others")
        return wire.Attested(bytes.fromhex(found.told.attestation))

    def _find_obstacle(self, asked: wire.AskReplay, receipt: Receipt, client: bytes) -> str | None:
        """Return why that receipt of ours pays no replay; None where it does."""
        signed = self._find(asked.paid)
        if signed is None:
            return "there is no such receipt here: buy one token to question and answer first"
        paid = decode_body(decode_receipt(signed).body)
        if paid.operator != self._own or paid.client != client:
            return "that receipt is not of this client and this node"
        if asked.paid in self._used or paid.started_at < self._clock() - VALID_S:
            return "that receipt was used, or is old"
        if paid.adapter != receipt.adapter or paid.base != receipt.base:
            return "that receipt is of another adapter"
        if paid.prompt_tokens < size_of(asked.opening):
            return "that receipt is of fewer tokens than are to be replayed"
        return None

    def _use(self, paid: bytes) -> None:
        self._used[paid] = None
        if len(self._used) > MAX_USED:
            del self._used[next(iter(self._used))]


def size_of(opening: Opening) -> int:
    """Return how many tokens are computed to replay an answer."""
    return len(prompt_in(opening)) + len(opening.answer_ids)
