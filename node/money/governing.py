"""What this network's people decided, and what of it this node applies: read from the chain, and
taken over when the next epoch begins. A value beyond this program's bounds is refused, and told.

Knows the contracts by proofs/chain/governance.py, the bounds by proofs/parameters.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from proofs.attribution.shares import SharePolicy
from proofs.chain.client import ChainClient
from proofs.chain.decisions import Decisions
from proofs.chain.errors import ChainError
from proofs.chain.governance import Governance
from proofs.hextext import to_hex
from proofs.parameters import (
    AUDIT_ONE_IN,
    COMPLETION_FLOOR,
    DEFAULTS,
    MOST_ANSWER_TOKENS,
    PROMISE_S,
    PROMPT_FLOOR,
    STAKE_PER_ANSWER,
    UNGOVERNED,
    Ruling,
    Version,
    in_force,
    rule_on,
    show_value,
)
from proofs.policies import TAKEN_S, Policies, named_in, policies_of, policy_of
from proofs.stake import StakeTerms

from ..api.governance import GovernanceInfo, governance_info
from ..errors import NodeError
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.metering import Price
from .heads import Heads

CHAIN_DEADLINE_S = 30.0
TROUBLE = "governance"
BORDER_S = 120.0
"""How long another node may still go by the version before: it saw the epoch's header later."""


@dataclass(frozen=True)
class Decided:
    """What holds in this epoch, beside what the operator set: the stricter of both is done."""

    ruling: Ruling = UNGOVERNED

    @property
    def policy(self) -> SharePolicy:
        """Return how the fees of answers are divided that begin now."""
        return policy_of(self.ruling.values, self.ruling.version)

    def price(self, own: Price) -> Price:
        """Return what a token costs here: the operator's price, lifted to the network's floor."""
        values = self.ruling.values
        return Price(
            max(own.prompt, values[PROMPT_FLOOR]), max(own.completion, values[COMPLETION_FLOOR])
        )

    def one_in(self, own: int) -> int:
        """Return one in how many bought answers is replayed; 0 where the operator replays none."""
        return min(own, self.ruling.values[AUDIT_ONE_IN])

    def answer_tokens(self, own: int) -> int:
        """Return how many tokens another node is asked for where a request does not say."""
        return min(own, self.ruling.values[MOST_ANSWER_TOKENS])

    def stake_terms(self, own: StakeTerms) -> StakeTerms:
        """Return the terms of stake: the contract's own, with what was voted for each answer."""
        return own.voted(self.ruling.values[STAKE_PER_ANSWER])

    def promise_s(self, own: int) -> int:
        """Return within how many seconds a receipt is promised to be in a header."""
        return min(own, self.ruling.values[PROMISE_S])


@dataclass(frozen=True)
class Look:
    """What one look at the chain said.

    `versions`: all that are deep enough to count. `began_at`: when the epoch began, since the
    newest header that counts was posted; 0 before the first. `paused_until`: by the guardian.
    """

    versions: tuple[Version, ...]
    began_at: int
    paused_until: int


NOTHING_SEEN = Look((), 0, 0)


def look(chain: ChainClient, governance: Governance, decisions: Decisions) -> Look:
    """Look at the contracts once. Blocks. ChainError."""
    block = chain.finality.block()
    return Look(
        decisions.lasting(block),
        chain.settlement.last_posted_at(block),
        paused_until=governance.read_guardian().paused_until,
    )


class Governing:
    """The decisions of one network, as they are in force."""

    def __init__(
        self,
        chain: ChainClient,
        governance: Governance,
        heads: Heads,
        telemetry: Telemetry,
        on_change: Callable[[Decided], None],
        seen: Look = NOTHING_SEEN,
    ) -> None:
        self._chain = chain
        self._governance = governance
        self._decisions = Decisions(chain, governance)
        self._heads = heads
        self._telemetry = telemetry
        self._on_change = on_change
        self._seen = seen
        self._since = -math.inf  # when it took over what is in force
        self._before = 0  # the version that was in force before that
        self.decided = Decided(_rule(seen))

    @property
    def agreeable(self) -> Policies:
        """Return those by which another node may divide a fee now: what is in force here, what was
        just before, or what comes next, since neither sees each header at once.
        """
        now = self.decided.ruling.version
        is_border = trio.current_time() < self._since + BORDER_S
        first = min(now, self._before) if is_border else now
        return self.every.between(first, max(now, len(self._seen.versions)))

    @property
    def taken(self) -> Policies:
        """Return those that a receipt may name which an aggregator takes now."""
        return named_in(self._seen.versions, self._seen.began_at, TAKEN_S)

    @property
    def every(self) -> Policies:
        """Return those of all versions that were written."""
        return policies_of(self._seen.versions)

    async def run(self, interval_s: float) -> None:
        """Look at the chain as it grows, until cancelled."""
        turns = self._heads.turns(interval_s, self.is_paused)
        while True:
            await turns.next()
            try:
                seen = await in_thread(
                    look,
                    self._chain,
                    self._governance,
                    self._decisions,
                    deadline_s=CHAIN_DEADLINE_S,
                )
            except (ChainError, trio.TooSlowError) as error:
                self._telemetry.trouble(TROUBLE, f"what was decided cannot be read: {error}")
                continue
            self._telemetry.clear(TROUBLE)
            turns.looked()
            self.take(seen)

    def is_paused(self) -> bool:
        """Return whether the guardian's pause may still go on."""
        until = self._seen.paused_until
        return until > 0 and not self._heads.has_come(until)

    def take(self, seen: Look) -> None:
        """Take over what a look at the chain said."""
        was_paused = self.is_paused()
        is_other = (seen.versions, seen.began_at) != (self._seen.versions, self._seen.began_at)
        self._seen = seen
        if self.is_paused() != was_paused:
            word = "resumed" if was_paused else f"paused until {seen.paused_until}"
            self._telemetry.log(f"governance: posting is {word}")
        before = self.decided.ruling
        ruling = _rule(seen)
        if ruling != before:
            self._before = before.version
            self._since = trio.current_time()
            self.decided = Decided(ruling)
            self._telemetry.log(f"governance: {tell_change(before, ruling)}")
        if ruling != before or is_other:
            self._on_change(self.decided)

    async def show(self) -> GovernanceInfo:
        """Tell what holds, and what is proposed, as the chain says now. Raises NodeError."""
        try:
            found = await in_thread(self._governance.proposals, deadline_s=CHAIN_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(f"what is proposed cannot be read: {error!r}; try again") from error
        return governance_info(self._seen.versions, self._seen.began_at, found)

    def describe(self) -> dict[str, object]:
        """Return what is in force here, as plain values: those that are not the defaults, and what
        was voted and is not applied.
        """
        ruling = self.decided.ruling
        return {
            "governor": to_hex(self._governance.address),
            "version": ruling.version,
            "newest_version": len(self._seen.versions),
            "changed": {
                name: show_value(name, value)
                for name, value in ruling.values.items()
                if value != DEFAULTS[name]
            },
            "refused": [
                {
                    "name": one.name,
                    "voted": show_value(one.name, one.value),
                    "kept": show_value(one.name, one.kept),
                    "reason": one.reason,
                }
                for one in ruling.refusals
            ],
            "unknown": list(ruling.unknown),
            "paused_until": self._seen.paused_until if self.is_paused() else None,
        }


def _rule(seen: Look) -> Ruling:
    return rule_on(in_force(seen.versions, seen.began_at))


def tell_change(before: Ruling, now: Ruling) -> str:
    """Say what another version changes here."""
    changed = [
        f"{name} is {show_value(name, value)}, was {show_value(name, before.values[name])}"
        for name, value in now.values.items()
        if value != before.values[name]
    ]
    refused = [
        f"{one.name} stays {show_value(one.name, one.kept)}, since {one.reason}"
        for one in now.refusals
    ]
    said = "; ".join(changed + refused) or "nothing that is applied here changes"
    return f"version {now.version} is in force: {said}"
