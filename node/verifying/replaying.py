"""Replays an answer that this node bought, or that somebody shows, and says whether the adapter of
its receipt made it.

    receipt + what is remembered or shown of its answer → is it that answer → can it be judged here
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
from engine.verdict import MILLION, SAME, Calibration, judge
from engine.verdict import Verdict as Judgement
from p2p.cid import Cid
from proofs.attestation.record import (
    Attestation,
    Judged,
    Measured,
    Opening,
    Outcome,
    build_attestation,
    parse_attestation,
)
from proofs.digest import Network
from proofs.errors import AttestationError
from proofs.hextext import to_hex
from proofs.receipt import BARE_BASE, Receipt, decode_body, digest_of
from proofs.signing import Signer

from ..api.verifying import Verdict, VerifyInfo
from ..attributing.answers import VERSION as ANSWER_VERSION
from ..attributing.answers import OwnAnswer, OwnAnswers
from ..errors import AdapterError, BadRequest, NodeError
from ..wire.infer import Ask, WireError, decode_from_client, expect
from .limits import UNCALIBRATED, Limits, find_limits, find_obstacle

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

    def calibration(self, cid: Cid) -> Calibration | None:
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
    """Replays answers that are remembered here, or shown; `signer` and `network` sign what was
    found.
    """

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

    async def verify(
        self, body: bytes, node_signature: bytes, *, opened: bool = False
    ) -> VerifyInfo | Replayed:
        """Replay the answer of a receipt, as its node signed it; a VerifyInfo alone says why that
        cannot be known here. Where `opened`, the attestation shows question and answer. Raises
        ReceiptError for what is none.
        """
        own = await trio.to_thread.run_sync(self._answers.find, digest_of(body))
        found = await self.replay(body, node_signature, own)
        if not opened or own is None or not isinstance(found, Replayed):
            return found
        shown = self.attest(found, body, node_signature, opening_of(own))
        return replace(found, told=replace(found.told, attestation=shown.hex()))

    async def replay(
        self, body: bytes, node_signature: bytes, own: OwnAnswer | None
    ) -> VerifyInfo | Replayed:
        """Replay an answer of which this is kept, and sign what was found, question and answer kept
        back. Raises ReceiptError.
        """
        found = await self._judge_answer(body, own)
        if not isinstance(found, Replayed):
            return found
        data = self.attest(found, body, node_signature, None)
        return replace(found, told=replace(found.told, attestation=data.hex()))

    async def recompute(self, data: bytes) -> tuple[Attestation, VerifyInfo | Replayed]:
        """Replay the answer that an attestation shows. Raises BadRequest where it shows none."""
        if self._network is None:
            raise BadRequest("without a chain (chain_rpc) there are no receipts to verify")
        try:
            shown = parse_attestation(data, self._network)
        except AttestationError as error:
            raise BadRequest(f"this is no attestation of this network: {error}") from error
        if shown.opening is None:
            raise BadRequest(
                "this attestation keeps question and answer back, so nobody can replay it; its"
                " auditor shows them with `lorikeet verify-answer RECEIPT --open FILE`"
            )
        answer = answer_in(shown.digest, shown.opening)
        found = await self.replay(shown.body, shown.node_signature, answer)
        if isinstance(found, Replayed):
            told = replace(found.told, auditor=shown.auditor.hex(), attested=shown.outcome)
            return shown, replace(found, told=told)
        return shown, replace(found, auditor=shown.auditor.hex(), attested=shown.outcome)

    async def _judge_answer(self, body: bytes, own: OwnAnswer | None) -> VerifyInfo | Replayed:
        """Replay an answer, and sign nothing."""
        receipt = decode_body(body)
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
        if own.ask.adapter != receipt.adapter or own.ask.base != receipt.base:
            return "the receipt names another adapter or base than was asked for"
        if self._engine.ready is None:
            return "the engine is not up yet; ask again in a while"
        return None

    async def _hold(self, receipt: Receipt, ask: Ask) -> Limits:
        if receipt.adapter == BARE_BASE:
            return self._find_limits(receipt, None)
        cid = Cid(receipt.adapter)
        if ask.cocktail:
            self._adapters.learn(ask.cocktail)
        with trio.move_on_after(HOLD_DEADLINE_S) as scope:
            await self._adapters.hold_guest(cid)
        if scope.cancelled_caught:
            raise NodeError(f"{cid} did not come within {HOLD_DEADLINE_S:.0f} s; ask again")
        try:
            published = await trio.to_thread.run_sync(self._adapters.calibration, cid)
        except AdapterError:
            published = None
        return self._find_limits(receipt, published)

    def _find_limits(self, receipt: Receipt, published: Calibration | None) -> Limits:
        assert self._engine is not None
        assert self._engine.ready is not None
        served = receipt.dtype.decode("ascii", errors="replace")
        own = self._engine.ready.dtype
        limits = find_limits(published, served, own)
        if limits is None:
            raise NodeError(find_obstacle(served, own) or "no limits are known for it")
        return limits

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

    def attest(
        self, found: Replayed, body: bytes, node_signature: bytes, opening: Opening | None
    ) -> bytes:
        """Sign what was found; without an opening question and answer are kept back. Nothing where
        it can't be attested: it is too short, or of another settlement than this node's.
        """
        if self._network is None or found.measured is None:
            return b""
        outcome: Outcome = "differs" if found.measured.score > found.measured.limit else "agrees"
        judged = Judged(body, node_signature, outcome, found.measured, opening)
        try:
            return build_attestation(self._signer, judged, int(time.time()), self._network)
        except AttestationError:
            return b""


def opening_of(own: OwnAnswer) -> Opening:
    """Return what others need to replay an answer."""
    return Opening(own.asked, own.client_seed, own.node_seed, own.salt, own.answer_ids)


def answer_in(receipt: bytes, opening: Opening) -> OwnAnswer | None:
    """Return the answer that an opening shows, to the receipt with that digest; None where its
    question is none that this node knows how to ask.
    """
    try:
        expect(decode_from_client(opening.ask), Ask)
    except WireError:
        return None
    return OwnAnswer(
        ANSWER_VERSION,
        receipt,
        opening.ask,
        opening.client_seed,
        opening.node_seed,
        answer_ids=opening.answer_ids,
        salt=opening.salt,
    )


def unknown(receipt: Receipt, body: bytes, reason: str) -> VerifyInfo:
    """Say why it cannot be known here."""
    return VerifyInfo(
        receipt=digest_of(body).hex(),
        verdict="unknown",
        reason=reason,
        node=to_hex(receipt.operator),
        adapter=name_adapter(receipt.adapter),
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
        adapter=name_adapter(receipt.adapter),
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
    if limits.thresholds == SAME:
        whose = "the limits of the same kernels"
    said = {
        "honest": "replayed: its tokens are those that this adapter and this seed give",
        "suspicious": "replayed: this adapter and this seed do not give its tokens",
        "too short": "replayed, but so short an answer stays below every limit",
    }[verdict.outcome]
    return f"{said} (missed by {verdict.score:.4f} a token, {verdict.limit:.4f} allowed by {whose})"


def _find_end(ask: Ask, answer_ids: Sequence[int]) -> int | None:
    """Return the first token that should have ended an answer that goes on."""
    return next((token for token in answer_ids[:-1] if token in ask.stop_ids), None)


def name_adapter(adapter: bytes) -> str:
    """Return an adapter's CID, nothing for the bare base."""
    return "" if adapter == BARE_BASE else str(Cid(adapter))


_VERDICTS: Mapping[str, Verdict] = {
    "honest": "agrees",
    "suspicious": "differs",
    "too short": "unknown",
}
