"""Decides what follows of a verdict, or of a lie: for the weight of the node that answered, and for
whoever attested otherwise.

    signed or sent to this daemon, and not so       → caught: its weight is lost at once

    replayed here, an answer bought here            → evidence
    attested by an auditor whom the operator named  → half the weight until a replay here decides;
                                                      evidence where nothing is replayed here
    replayed here, an answer that somebody showed   → convicts alone, or nothing but a watch
    attested by a stranger                          → a watch: the node's next answers are replayed

A watch costs the node nothing. Moves no money.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from engine.verdict import MILLION, limit_of
from proofs.attestation.record import Attestation, parse_attestation
from proofs.digest import Network
from proofs.hextext import to_hex

from ..api.verifying import AttestationInfo, Weighs
from ..telemetry import Telemetry
from .heard import Heard
from .limits import choose_limits, thresholds_of
from .replaying import Replayed, name_adapter
from .trust import Row, Trust

ALONE_ONE_IN = 10**12
"""An answer that somebody chose to show convicts alone where an honest node would give such a one
at most once in so many: once in a million, chosen among a million."""

BEYOND = 12
"""What was chosen to be shown counts only where it exceeds so many times what honest answers score
on average: prompts and machines that no calibration saw may be among what was chosen from."""
SHOWN_AGE_S = 30 * 86_400
"""What somebody shows of an answer that is older says nothing of its node today."""

Tell = Callable[[bytes], None]
"""Passes on an attestation, its opening kept back."""


@dataclass(frozen=True)
class Surroundings:
    """What this needs of its daemon: `name_of` is what a node is called, by its address; `file`
    keeps what is known; `tell` passes attestations on; `own` and `named` are the public keys of
    this node and of the auditors that its operator named. Where it `replays_here`, which costs
    this daemon's engine alone, somebody's word has a node's answers replayed, and nobody's is
    evidence.
    """

    network: Network | None
    name_of: Callable[[bytes], str]
    file: Path
    tell: Tell
    own: bytes
    named: frozenset[bytes] = frozenset()
    replays_here: bool = True
    clock: Callable[[], float] = time.time


class Consequences:
    """The verdicts of one daemon, and what it makes of them."""

    def __init__(
        self, trust: Trust, heard: Heard, around: Surroundings, telemetry: Telemetry
    ) -> None:
        self.trust = trust
        self.heard = heard
        self._around = around
        self._telemetry = telemetry

    def is_watched(self, operator: bytes, adapter: bytes) -> bool:
        """Return whether each answer of a node with an adapter is to be replayed."""
        return self.trust.is_watched(operator, adapter, self._around.clock())

    def one_in(self, operator: bytes, adapter: bytes, most: int) -> int:
        """Return one in how many of a node's answers is to be replayed: one in `most`, and more of
        a node that is new here, where that costs this daemon's engine alone.
        """
        if not self._around.replays_here:
            return most
        return self.trust.one_in(operator, adapter, most)

    def listing(self) -> list[AttestationInfo]:
        """List what was attested here or heard, the newest first."""
        return [self._describe(found) for found in self.heard.all()]

    def _describe(self, found: Attestation) -> AttestationInfo:
        measured = found.measured
        return AttestationInfo(
            receipt=found.digest.hex(),
            outcome=found.outcome,
            node=to_hex(found.receipt.operator),
            adapter=name_adapter(found.receipt.adapter),
            tokens=measured.tokens,
            missed=measured.missed,
            score=measured.score / MILLION,
            limit=measured.limit / MILLION,
            judged_at=found.judged_at,
            auditor=found.auditor.hex(),
            weighs=self._weighs(found.auditor),
        )

    def _weighs(self, auditor: bytes) -> Weighs:
        if auditor == self._around.own:
            return "own"
        return "named" if auditor in self._around.named else "stranger"

    async def take(self, found: Replayed) -> None:
        """Count an answer that was bought and replayed here, and tell others."""
        told = found.told
        differs = told.verdict == "differs"
        self._telemetry.count("answers_replayed")
        if differs:
            self._telemetry.count("answers_differing")
            self._telemetry.log(f"verifying: receipt {told.receipt[:16]}…: {told.reason}")
        cap = found.limits.thresholds.cap / MILLION
        score = cap if differs and found.score <= told.limit else found.score
        row = self.trust.learn(
            found.receipt.operator,
            found.receipt.adapter,
            score,
            found.limits,
            self._around.clock(),
            is_suspicious=differs,
            is_proof=proves_alone(found),
        )
        if row is not None:
            self._convict(row)
        if told.attestation:
            data = bytes.fromhex(told.attestation)
            self._note(data)
            self._around.tell(data)
        await self._save()

    async def blame(self, operator: bytes, adapter: bytes, lie: str) -> None:
        """Count what a node, asked here for an adapter, signed or sent that is not so. Nobody else
        hears of it: here it is known from whom it came, and to others it would be a word.
        """
        if self.trust.catch(operator, adapter, self._around.clock()) is None:
            return
        self._telemetry.count("lies_caught")
        self._telemetry.log(f"verifying: {lie}; {to_hex(operator)} is asked last")
        with trio.CancelScope(shield=True):  # whoever asked may be leaving
            await self._save()

    async def hear(self, data: bytes, found: Attestation) -> None:
        """Weigh an attestation that was told, whose bytes are these."""
        if not self.heard.learn(data, found):
            return
        self._telemetry.count("attestations_heard")
        receipt = found.receipt
        now = self._around.clock()
        is_named = found.auditor in self._around.named
        if is_named and not self._around.replays_here:
            await self._believe(found, now)
        elif found.outcome == "differs" and self._around.replays_here:
            heed = self.trust.doubt if is_named else self.trust.suspect
            heed(receipt.operator, receipt.adapter, now)

    async def _believe(self, found: Attestation, now: float) -> None:
        measured = found.measured
        limits = choose_limits(thresholds_of(found.measured))
        if limits.thresholds != thresholds_of(found.measured):
            return  # it was held to limits that let more pass than any here: it says nothing
        receipt = found.receipt
        row = self.trust.learn(
            receipt.operator,
            receipt.adapter,
            measured.score / MILLION,
            limits,
            now,
            is_suspicious=found.outcome == "differs",
        )
        if row is not None:
            self._convict(row)
        await self._save()

    async def recompute(self, attested: Attestation, found: Replayed) -> None:
        """Weigh an answer that somebody showed, replayed here: of the node that gave it, and of
        whoever attested it. Each counts once, however often it is shown, and not when it is old.
        """
        self._telemetry.count("answers_replayed")
        told = found.told
        now = self._around.clock()
        is_new = bool(told.attestation) and self._note(bytes.fromhex(told.attestation))
        if is_new and found.receipt.started_at > now - SHOWN_AGE_S:
            self._weigh_shown(found, now)
        if contradicts(attested, found):
            self.heard.convict(attested.auditor)
            self._telemetry.reject(
                "attestation",
                "key " + attested.auditor.hex(),
                f"not so: {attested.outcome!r} for receipt {found.told.receipt[:16]}…, which"
                f" replayed here {found.told.verdict}; this auditor is heard no more",
            )
        await self._save()

    def _weigh_shown(self, found: Replayed, now: float) -> None:
        receipt = found.receipt
        if proves_alone(found):
            row = self.trust.convict(receipt.operator, receipt.adapter, receipt.started_at, now)
            if row is not None:
                self._convict(row)
        elif found.told.verdict == "differs":
            self.trust.suspect(receipt.operator, receipt.adapter, now)

    def _note(self, data: bytes) -> bool:
        """Keep what was attested here; return whether it is the first word on its receipt."""
        assert self._around.network is not None, "where nothing is paid there is no receipt"
        return self.heard.learn(data, parse_attestation(data, self._around.network))

    async def _save(self) -> None:
        try:
            await trio.to_thread.run_sync(self.trust.save, self._around.file)
        except OSError as error:
            self._telemetry.log(f"verifying: what replays said is not kept: {error}")

    def _convict(self, row: Row) -> None:
        evidence = row.evidence
        adapter = name_adapter(row.adapter) or "the bare base"
        self._telemetry.reject(
            "answer",
            self._around.name_of(row.operator),
            f"not computed: of {evidence.answers} answers with {adapter} that were replayed"
            f" {evidence.differing} differ; {to_hex(row.operator)} is asked last",
        )


def proves_alone(found: Replayed) -> bool:
    """Return whether an answer speaks against its node whoever chose to show it."""
    limits = found.limits
    rare = msgspec.structs.replace(
        limits.thresholds, mean=round(BEYOND * limits.mean * MILLION), one_in=ALONE_ONE_IN
    )
    return found.score > limit_of(found.told.tokens, rare)


def contradicts(attested: Attestation, found: Replayed) -> bool:
    """Return whether no honest auditor could have said so, whatever his kernels: he saw a cheat
    where there is not even an honest node's average, or none where there is proof.
    """
    if attested.outcome == "agrees":
        return proves_alone(found)
    return found.told.verdict == "agrees" and found.score <= BEYOND * found.limits.mean
