"""Replays an answer that this node bought, and says whether the adapter of its receipt made it.

    receipt + what is remembered of its answer → is it that answer → can it be judged here
      → the adapter held → one prefill → margins → the verdict → if it differs: did the bare base
      make it?

Costs one prefill of question and answer. Changes nothing and refuses no money.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from engine import messages as m
from engine.verdict import MILLION, Thresholds, judge
from engine.verdict import Verdict as Judgement
from p2p.cid import Cid
from proofs.attestation.record import Judged, Measured, Outcome, build_attestation
from proofs.digest import Network
from proofs.errors import AttestationError
from proofs.hextext import to_hex
from proofs.receipt import BARE_BASE, Receipt, decode_body, digest_of
from proofs.signing import Signer

from ..api import Verdict, VerifyInfo
from ..attributing.answers import OwnAnswer, OwnAnswers
from ..errors import AdapterError, NodeError
from ..wire.infer import Ask
from .limits import UNCALIBRATED, Limits, choose_limits, find_obstacle

HOLD_DEADLINE_S = 120.0


class Engine(Protocol):
    """What replays: implemented by engine_host.EngineHost."""

    @property
    def ready(self) -> m.Ready | None:
        """Return what it said of itself."""

    async def replay(
        self,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
        adapter: bytes | None,
        sampling: m.Sampling,
    ) -> list[float]:
        """Return each token's margin. Raises NodeError."""


class Adapters(Protocol):
    """What a verifier needs of a catalogue: implemented by catalogue.catalogue.Catalogue."""

    async def hold_guest(self, cid: Cid) -> object:
        """Make an adapter servable here, until others need its place. Raises NodeError."""

    def learn(self, cocktail: bytes) -> object:
        """Take a cocktail's bytes. Raises AdapterError."""

    def thresholds(self, cid: Cid) -> Thresholds | None:
        """Read the limits of an adapter that is held, None where it has none. Raises
        AdapterError.
        """


@dataclass(frozen=True)
class Replayed:
    """One answer replayed: its receipt, the limits it was held to, its score in logits, what can be
    attested (None where it is too short), and what is said of it.
    """

    receipt: Receipt
    limits: Limits
    score: float
    measured: Measured | None
    told: VerifyInfo


class Verifier:
    """Replays answers that are remembered here; `signer` and `network` sign what was found."""

    def __init__(
        self,
        engine: Engine | None,
        adapters: Adapters,
        answers: OwnAnswers,
        signer: Signer,
        network: Network | None,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._answers = answers
        self._signer = signer
        self._network = network

    async def verify(self, body: bytes, node_signature: bytes) -> VerifyInfo | Replayed:
        """Replay the answer of a receipt, as its node signed it; a VerifyInfo alone says why that
        cannot be known here. Raises ReceiptError for what is none.
        """
        receipt = decode_body(body)
        own = await trio.to_thread.run_sync(self._answers.find, digest_of(body))
        reason = self._find_obstacle(receipt, body, own)
        if reason is not None or own is None:
            return unknown(receipt, body, reason or "")
        ask = own.ask
        try:
            limits = await self._hold(receipt, ask)
            found = self._judge(receipt, body, await self._replay(receipt, own, ask), limits)
            if found.told.verdict == "differs" and receipt.adapter != BARE_BASE:
                bare = await self._replay(receipt, own, ask, with_adapter=False)
                fits = judge(bare, UNCALIBRATED).outcome == "honest"
                found = replace(found, told=replace(found.told, fits_base=fits))
        except NodeError as error:
            return unknown(receipt, body, str(error))
        found = self._attest(found, body, node_signature)
        end = _find_end(ask, own.answer_ids)
        if end is None:
            return found
        reason = f"token {end} ends an answer, and more of them were sent and paid"
        return replace(found, told=replace(found.told, verdict="differs", reason=reason))

    def _find_obstacle(self, receipt: Receipt, body: bytes, own: OwnAnswer | None) -> str | None:
        if self._engine is None:
            return "this daemon has no engine that could replay it; ask one that has"
        if own is None:
            return "the tokens of this answer are not remembered here (remember_answers)"
        if not own.fits(body):
            return "the tokens remembered here are not those of this receipt"
        if self._engine.ready is None:
            return "the engine is not up yet; ask again in a while"
        return find_obstacle(
            receipt.dtype.decode("ascii", errors="replace"), self._engine.ready.dtype
        )

    async def _hold(self, receipt: Receipt, ask: Ask) -> Limits:
        if receipt.adapter == BARE_BASE:
            return choose_limits(None)
        cid = Cid(receipt.adapter)
        if ask.cocktail:
            self._adapters.learn(ask.cocktail)
        with trio.move_on_after(HOLD_DEADLINE_S) as scope:
            await self._adapters.hold_guest(cid)
        if scope.cancelled_caught:
            raise NodeError(f"{cid} did not come within {HOLD_DEADLINE_S:.0f} s; ask again")
        try:
            published = await trio.to_thread.run_sync(self._adapters.thresholds, cid)
        except AdapterError:
            published = None
        return choose_limits(published)

    async def _replay(
        self, receipt: Receipt, own: OwnAnswer, ask: Ask, *, with_adapter: bool = True
    ) -> list[float]:
        """Return the margins of what was paid as answer; penalties and grammar go on from what
        another node made before.
        """
        assert self._engine is not None
        before = ask.resumed.num_answered if ask.resumed else 0
        start = len(ask.prompt_ids) - before
        margins = await self._engine.replay(
            ask.prompt_ids[:start],
            [*ask.prompt_ids[start:], *own.answer_ids],
            receipt.adapter if with_adapter and receipt.adapter != BARE_BASE else None,
            m.Sampling(receipt.seed, ask.terms),
        )
        return margins[before:]

    def _judge(
        self, receipt: Receipt, body: bytes, margins: Sequence[float], limits: Limits
    ) -> Replayed:
        assert self._engine is not None
        assert self._engine.ready is not None
        return hold_to(limits, receipt, body, margins, own=self._engine.ready.dtype)

    def _attest(self, found: Replayed, body: bytes, node_signature: bytes) -> Replayed:
        """Sign what was found, question and answer kept back."""
        if self._network is None or found.measured is None:
            return found
        outcome: Outcome = "differs" if found.measured.score > found.measured.limit else "agrees"
        judged = Judged(body, node_signature, outcome, found.measured, None)
        try:
            data = build_attestation(self._signer, judged, int(time.time()), self._network)
        except AttestationError:  # the ledger may hold receipts of another settlement
            return found
        return replace(found, told=replace(found.told, attestation=data.hex()))


def unknown(receipt: Receipt, body: bytes, reason: str) -> VerifyInfo:
    """Say why it cannot be known here."""
    return VerifyInfo(
        receipt=digest_of(body).hex(),
        verdict="unknown",
        reason=reason,
        node=to_hex(receipt.operator),
        adapter=_name(receipt.adapter),
        tokens=receipt.completion_tokens,
    )


def hold_to(
    limits: Limits, receipt: Receipt, body: bytes, margins: Sequence[float], *, own: str
) -> Replayed:
    """Judge an answer's margins by its limits; `own` is the number format of the replay."""
    thresholds = limits.thresholds
    verdict = judge(margins, thresholds)
    measured = None
    if verdict.outcome != "too short":
        measured = Measured(
            len(margins),
            sum(margin > 0 for margin in margins),
            round(verdict.score * MILLION),
            round(verdict.limit * MILLION),
            cap=thresholds.cap,
            mean=thresholds.mean,
            variance=thresholds.variance,
            one_in=thresholds.one_in,
        )
    told = VerifyInfo(
        receipt=digest_of(body).hex(),
        verdict=_VERDICTS[verdict.outcome],
        reason=_reason(verdict, limits),
        node=to_hex(receipt.operator),
        adapter=_name(receipt.adapter),
        tokens=len(margins),
        missed=sum(margin > 0 for margin in margins),
        score=verdict.score,
        limit=verdict.limit if math.isfinite(verdict.limit) else 0.0,
        is_calibrated=limits.are_calibrated,
        formats=(receipt.dtype.decode(), own),
        fits_base=None,
    )
    return Replayed(receipt, limits, verdict.score, measured, told)


def _reason(verdict: Judgement, limits: Limits) -> str:
    whose = "its creator's limits" if limits.are_calibrated else "the limits of what has none"
    said = {
        "honest": "replayed: its tokens are those that this adapter and this seed give",
        "suspicious": "replayed: this adapter and this seed do not give its tokens",
        "too short": "replayed, but so short an answer stays below every limit",
    }[verdict.outcome]
    return f"{said} (missed by {verdict.score:.4f} a token, {verdict.limit:.4f} allowed by {whose})"


def _find_end(ask: Ask, answer_ids: Sequence[int]) -> int | None:
    """Return the first token that should have ended an answer that goes on."""
    return next((token for token in answer_ids[:-1] if token in ask.stop_ids), None)


def _name(adapter: bytes) -> str:
    return "" if adapter == BARE_BASE else str(Cid(adapter))


_VERDICTS: Mapping[str, Verdict] = {
    "honest": "agrees",
    "suspicious": "differs",
    "too short": "unknown",
}
