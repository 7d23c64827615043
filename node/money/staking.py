"""What stands behind this node, and offences that it saw: written down, and shown to the stake
contract where the bounty is worth a transaction.

    two receipts for one place ──▶ a file in HOME/evidence ──▶ the contract
    the court convicted an aggregator ──▶ the contract: its stake follows its bond

What is an offence, proofs/evidence.py says. A file stays, for whoever wants to show it by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from proofs.chain.client import ChainClient
from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.stake import Stake
from proofs.codec import encode
from proofs.errors import EvidenceError, LedgerError, ReceiptError
from proofs.evidence import check_evidence, read_evidence, show_two_receipts
from proofs.hextext import to_hex
from proofs.promise import Evidence
from proofs.receipt import decode_receipt
from proofs.stake import StakeTerms
from proofs.voucher import ChannelConfig, channel_id

from ..telemetry import Telemetry
from ..threads import in_thread
from .heads import Heads
from .wholefile import WholeFile

CHAIN_DEADLINE_S = 60.0
MAX_EVIDENCE_FILES = 256
LOOKED_BACK_TERMS = 8
SUFFIX = ".evidence"
TROUBLE = "stake"
FOR_GOOD = ("SlashedBefore", "NoOffence")
"""What the contract says where asking again is of no use."""


@dataclass(frozen=True)
class Standing:
    """What stands behind this node's operator, in the token's smallest unit, and for how many
    answers at once that is enough; how many it announces, 0 where it makes none for others, and
    what they need.
    """

    counted: int
    thawing: int
    answers: int
    announced: int = 0
    needed: int = 0


class Staking:
    """The stake contract as one node sees it. What brings less than `least_bounty` (in the token's
    smallest unit) is left to others. `terms` are those in force, `announces` is how many answers at
    once this node says that it makes.
    """

    def __init__(
        self,
        chain: ChainClient,
        stake: Stake,
        heads: Heads,
        telemetry: Telemetry,
        *,
        folder: Path,
        least_bounty: int,
        terms: Callable[[], StakeTerms],
        announces: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._stake = stake
        self._heads = heads
        self._telemetry = telemetry
        self._folder = folder
        self._least_bounty = least_bounty
        self._settled: set[str | int] = set()  # files, and terms, of which nothing more comes
        self._terms = terms
        self._announces = announces
        self._seen: tuple[int, int] | None = None  # what counts, and what thaws

    @property
    def standing(self) -> Standing | None:
        """Return what stands behind this node; None before the chain said it."""
        if self._seen is None:
            return None
        counted, thawing = self._seen
        terms = self._terms()
        announced = self._announces()
        return Standing(
            counted,
            thawing,
            terms.covers(counted),
            announced=announced,
            needed=terms.needed(announced),
        )

    def note(self, config: ChannelConfig, evidence: Evidence) -> None:
        """Write down that a node signed two receipts for one place of its channel with this config:
        once for each channel, since a channel that forked is one offence.
        """
        network = self._chain.network
        try:
            first = decode_receipt(evidence.first)
            found = show_two_receipts(config, first, decode_receipt(evidence.second), network)
        except (EvidenceError, ReceiptError) as error:
            self._telemetry.log(f"stake: no evidence of two receipts: {error}")
            return
        path = self._folder / f"{channel_id(config, network).hex()}{SUFFIX}"
        if path.exists() or len(self._files()) >= MAX_EVIDENCE_FILES:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            WholeFile(path).write(encode(found))
        except (OSError, LedgerError) as error:
            self._telemetry.log(f"stake: evidence was not written: {error}")
            return
        self._telemetry.log(f"stake: evidence against {to_hex(config.operator)} is in {path}")

    async def run(self, interval_s: float) -> None:
        """Look at the chain as it grows, and show it what was found, until cancelled."""
        turns = self._heads.turns(interval_s, lambda: bool(self._waiting()))
        while True:
            await turns.next()
            try:
                await in_thread(self._look, deadline_s=CHAIN_DEADLINE_S)
            except (ChainError, OSError, trio.TooSlowError) as error:
                self._telemetry.trouble(TROUBLE, f"the stake contract cannot be asked: {error}")
                continue
            self._telemetry.clear(TROUBLE)
            turns.looked()

    def describe(self) -> dict[str, object]:
        """Return what stands behind this node, as plain values, and what it could still show."""
        told: dict[str, object] = {"contract": to_hex(self._stake.address)}
        standing = self.standing
        if standing is not None:
            told |= {
                "counted": str(standing.counted),
                "thawing": str(standing.thawing),
                "answers": standing.answers,
                "announced": standing.announced,
                "needed": str(standing.needed),
            }
        return told | {"evidence": [path.name for path in self._waiting()]}

    # ── in a thread ──

    def _look(self) -> None:
        own = self._chain.address
        self._seen = (self._stake.stake_of(own), self._stake.thawing_of(own))
        for path in self._waiting():
            self._show(path)
        term = self._chain.settlement.read_office().term
        for number in range(max(term - LOOKED_BACK_TERMS, 1), term):
            if number not in self._settled:
                self._show_conviction(number)

    def _show(self, path: Path) -> None:
        network = self._chain.network
        try:
            found = read_evidence(path.read_bytes(), network)
        except EvidenceError as error:
            self._telemetry.log(f"stake: {path} shows no offence: {error}")
            self._settled.add(path.name)
            return
        if self._slash(check_evidence(found, network), partial(self._stake.show, found)):
            self._settled.add(path.name)

    def _show_conviction(self, term: int) -> None:
        culprit = self._chain.settlement.convicted(term)
        send = partial(self._stake.show_conviction, term)
        if culprit is None or self._slash(culprit, send):
            self._settled.add(term)

    def _slash(self, culprit: bytes, send: Callable[[], object]) -> bool:
        """Show an offence where that pays; whether nothing more comes of it."""
        terms = self._stake.terms
        lost = terms.lost(self._stake.stake_of(culprit), self._stake.thawing_of(culprit))
        if not lost or terms.bounty(lost) < self._least_bounty:
            return False
        try:
            send()
        except ContractReverted as error:
            return error.error in FOR_GOOD
        self._telemetry.count("offences_shown")
        self._telemetry.log(f"stake: {to_hex(culprit)} lost what its offence costs")
        return True

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _waiting(self) -> list[Path]:
        return [path for path in self._files() if path.name not in self._settled]
