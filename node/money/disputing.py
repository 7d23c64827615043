"""Watches for disputes about registrations that are ours: who does not answer one in time loses
what he registered.

Answers none itself: that puts up a bond, and whether to is the owner's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import trio

from proofs.chain.client import ChainClient
from proofs.chain.disputes import Dispute, Disputes, Opening
from proofs.chain.errors import ChainError
from proofs.chain.registry import Registry
from proofs.hextext import to_hex
from proofs.weights import WeightsDigest

from ..telemetry import Telemetry
from ..threads import in_thread
from .heads import Heads
from .responding import AGAIN_BLOCKS

CHAIN_DEADLINE_S = 60.0
TROUBLE = "registry"


@dataclass(frozen=True)
class OwnDispute:
    """A dispute about weights that are registered to us, and what an answer puts up, in LORI's
    smallest unit.
    """

    number: int
    weights: bytes
    dispute: Dispute
    bond: int


class Disputing:
    """The disputes of one registry as those see them who own or made what is registered.

    No registry is older than the network: what was disputed before is not looked for.
    """

    def __init__(
        self,
        chain: ChainClient,
        registry: Registry,
        heads: Heads,
        telemetry: Telemetry,
        accounts: Sequence[bytes],
    ) -> None:
        self._chain = chain
        self._registry = registry
        self._heads = heads
        self._telemetry = telemetry
        self._accounts = accounts
        self._next_block = 0
        self._undecided: dict[int, Opening] = {}
        self.against_us: tuple[OwnDispute, ...] = ()

    async def run(self, interval_s: float) -> None:
        """Look at the chain as it grows, until cancelled."""
        turns = self._heads.turns(interval_s, lambda: False)
        while True:
            await turns.next()
            try:
                found = await in_thread(self._look, deadline_s=CHAIN_DEADLINE_S)
            except (ChainError, trio.TooSlowError) as error:
                self._telemetry.trouble(TROUBLE, f"disputes cannot be asked for: {error}")
                continue
            self._telemetry.clear(TROUBLE)
            turns.looked()
            self._note(found)

    def describe(self) -> list[dict[str, object]]:
        """Return what is disputed of ours, as plain values."""
        return [
            {
                "number": one.number,
                "weights": to_hex(one.weights),
                "challenger": to_hex(one.dispute.challenger),
                "state": one.dispute.state.name.lower(),
                "bond": str(one.bond),
                "until": one.dispute.until,
            }
            for one in self.against_us
        ]

    def _note(self, found: tuple[OwnDispute, ...]) -> None:
        known = {one.number for one in self.against_us}
        for one in found:
            if one.number not in known:
                self._telemetry.log(
                    f"registry: dispute {one.number}, by {to_hex(one.dispute.challenger)}, is about"
                    f" weights of ours, {to_hex(one.weights)}"
                )
        self.against_us = found

    # ── in a thread ──

    @cached_property
    def _disputes(self) -> Disputes | None:
        at = self._registry.disputes()
        return None if at is None else self._chain.open_disputes(at)

    def _look(self) -> tuple[OwnDispute, ...]:
        disputes = self._disputes
        if disputes is None or not disputes.count():
            return ()
        last = self._chain.rpc.block_number()
        first = max(self._next_block, self._chain.deployment.first_block)
        for opening in disputes.opened(first, last):
            self._undecided[opening.number] = opening
        self._next_block = last + 1 - AGAIN_BLOCKS
        ours = []
        for number, dispute in disputes.read_many([*self._undecided]).items():
            opening = self._undecided[number]
            if not dispute.is_open and not dispute.is_answered:
                del self._undecided[number]
            elif self._is_ours(opening):
                ours.append(OwnDispute(number, opening.digest, dispute, disputes.rules.bond))
        return tuple(ours)

    def _is_ours(self, opening: Opening) -> bool:
        """Whether a registration is ours that has its digest still."""
        digest = opening.digest
        if self._registry.number_of(digest) != opening.registration:
            return False  # somebody had committed before: it is his now
        found = self._registry.find(WeightsDigest(digest, digest))
        return found is not None and any(map(found.allows, self._accounts))
