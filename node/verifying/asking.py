"""Has an auditor replay what this node bought and cannot replay itself, and pays him.

    receipt + what is remembered of its answer → an auditor that the operator named, by lot
      → one token bought of it, to a prompt of question and answer: that pays the prefill
      → its attestation

Nobody else is asked: without an engine nothing that a stranger says can be recomputed, and he makes
as many keys that agree with him as he likes. Shows question and answer to whom it asks. What it
hears weighs in consequences.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from engine.verdict import MILLION
from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.identity import public_key_of
from p2p.streams import FrameStream
from proofs.attestation.record import Attestation, Opening, parse_attestation, prompt_in
from proofs.codec import encode
from proofs.digest import Network
from proofs.errors import AttestationError
from proofs.hextext import to_hex
from proofs.receipt import BARE_BASE, Receipt, decode_body, digest_of

from ..api.answers import CompletionRequest, TokenPrompt
from ..api.verifying import VerifyInfo
from ..attributing.answers import OwnAnswers
from ..errors import NodeError
from ..money.addresses import address_of_peer
from ..wire import replay as wire
from ..wire.infer import WireError
from .limits import choose_limits, thresholds_of
from .replaying import Replayed, name_adapter, opening_of, unknown

ASK_DEADLINE_S = 120.0
CONNECT_DEADLINE_S = 10.0
MAX_ASKED = 3  # auditors, for one verdict


class Market(Protocol):
    """Whom this node meets, and how it buys of them: implemented by app.Meeting."""

    def replaying(self) -> Sequence[str]:
        """List the connected peers that replay for others."""

    async def buy(self, request: CompletionRequest) -> bytes:
        """Buy an answer; return its receipt's digest. Raises NodeError."""

    def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AbstractAsyncContextManager[FrameStream]:
        """Open a stream. Raises P2pError."""


@dataclass(frozen=True)
class Shown:
    """An answer that others are to replay."""

    body: bytes
    node_signature: bytes
    receipt: Receipt
    opening: Opening


class SecondNode:
    """Replays by others: `named` are the public keys of the auditors that the operator named."""

    def __init__(
        self,
        market: Market,
        answers: OwnAnswers,
        network: Network,
        *,
        named: frozenset[bytes],
        dice: random.Random,
    ) -> None:
        self._market = market
        self._answers = answers
        self._network = network
        self._named = named
        self._dice = dice

    async def verify(self, body: bytes, node_signature: bytes) -> VerifyInfo | Replayed:
        """Have the answer of a receipt replayed. Raises ReceiptError for what is none."""
        receipt = decode_body(body)
        own = await trio.to_thread.run_sync(self._answers.find, digest_of(body))
        if own is None or not own.fits(body):
            reason = "the tokens of this answer are not remembered here (remember_answers)"
            return unknown(receipt, body, reason)
        if own.ask.resumed is not None:
            return unknown(receipt, body, "another node began it: nobody else can check its seed")
        return await self._ask_auditors(Shown(body, node_signature, receipt, opening_of(own)))

    async def _ask_auditors(self, shown: Shown) -> VerifyInfo | Replayed:
        """Ask one after the other until one says how it is."""
        reasons: list[str] = []
        for peer_id in self._choose(shown.receipt.operator)[:MAX_ASKED]:
            try:
                with trio.fail_after(ASK_DEADLINE_S):
                    return _taken(await self._ask(peer_id, shown), shown)
            except (NodeError, P2pError, AttestationError, WireError) as error:
                reasons.append(f"{peer_id}: {error}")
            except trio.TooSlowError:
                reasons.append(f"{peer_id}: no verdict within {ASK_DEADLINE_S:.0f} s")
        reason = "; ".join(reasons) or "none of the auditors is connected; name more (auditors)"
        return unknown(shown.receipt, shown.body, f"nobody replayed it: {reason}"[:1000])

    def _choose(self, answered: bytes) -> list[str]:
        """List the named auditors that are here, by lot; never the node that answered."""
        here = [
            one
            for one in self._market.replaying()
            if public_key_of(one) in self._named and address_of_peer(one) != answered
        ]
        self._dice.shuffle(here)
        return here

    async def _ask(self, peer_id: str, shown: Shown) -> Attestation:
        """Pay a node for a prefill, and have its word."""
        opening = shown.opening
        adapter = shown.receipt.adapter
        whole = (*prompt_in(opening), *opening.answer_ids)
        request = CompletionRequest(
            "base" if adapter == BARE_BASE else str(Cid(adapter)),
            TokenPrompt(whole),
            max_tokens=1,
            node=peer_id,
            private=True,
        )
        paid = await self._market.buy(request)
        asked = wire.AskReplay(shown.body, shown.node_signature, opening, paid)
        async with self._market.open_stream(peer_id, wire.PROTOCOL, CONNECT_DEADLINE_S) as stream:
            await stream.send(wire.encode(asked), CONNECT_DEADLINE_S)
            frame = await stream.receive(ASK_DEADLINE_S, max_bytes=wire.MAX_ANSWERED_BYTES)
        answer = wire.decode_answer(frame)
        if isinstance(answer, wire.Declined):
            raise NodeError(f"it gave no verdict: {answer.reason}")
        return self._check(answer.attestation, peer_id, shown)

    def _check(self, data: bytes, peer_id: str, shown: Shown) -> Attestation:
        found = parse_attestation(data, self._network)
        if found.body != shown.body or found.auditor != public_key_of(peer_id):
            raise NodeError("its verdict is of another answer, or somebody else's")
        if choose_limits(thresholds_of(found.measured)).thresholds != thresholds_of(found.measured):
            raise NodeError("it held the answer to limits that let more pass than any here")
        return found


def _taken(word: Attestation, shown: Shown) -> Replayed:
    measured = word.measured
    limits = choose_limits(thresholds_of(measured))
    told = VerifyInfo(
        receipt=word.digest.hex(),
        verdict=word.outcome,
        reason=f"replayed by another node, of key {word.auditor.hex()}, which was paid for it",
        node=to_hex(shown.receipt.operator),
        adapter=name_adapter(shown.receipt.adapter),
        tokens=measured.tokens,
        missed=measured.missed,
        score=measured.score / MILLION,
        limit=measured.limit / MILLION,
        is_calibrated=limits.are_calibrated,
        attestation=encode(word).hex(),
        auditor=word.auditor.hex(),
        attested=word.outcome,
    )
    return Replayed(shown.receipt, limits, measured.score / MILLION, measured, told)
