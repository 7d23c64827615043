"""Holds the aggregator to its word: looks at every header while it can be challenged, and convicts
the one that lies. One honest watcher is enough.

    a header that follows from its batch     → are its channels funded? are promises kept?
    one that does not                        → which proof convicts it? else: demand, and look again
    a promise that no header keeps           → demand that it be shown kept

What is a lie is decided by proofs/court.py and proofs/inquiry.py; this carries it to the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import trio

from proofs.batch import follow
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.chain.views import LATEST
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.court import Accusation, Case, Facts, Question, find_lies
from proofs.errors import BatchError
from proofs.inquiry import Inquiry
from proofs.promise import Promise
from proofs.state import EpochState, Transition

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .mirror import Posted
from .promises import PromiseBook

CHAIN_DEADLINE_S = 120.0
MAX_DEMANDS = 256  # of one inquiry
ALREADY = ("DemandedBefore",)  # somebody else asks the same
GONE = ("UnknownHeader", "OfficeVacant")  # it was taken back already


@dataclass(frozen=True)
class Verdict:
    """What came of one look: the header holds; it does not follow, which is being acted on; its
    aggregator is convicted. `epoch` is None where no header was looked at, but a promise.
    """

    epoch: int | None
    word: Literal["holds", "contradicted", "convicted"]
    detail: str


OnVerdict = Callable[[Verdict], None]


def ignore_verdict(verdict: Verdict) -> None:
    """Hear a verdict that the log tells already."""


class Watcher:
    """The judge of one daemon's mirror. `on_verdict` hears what comes of each look."""

    def __init__(
        self,
        chain: ChainClient,
        promises: PromiseBook,
        telemetry: Telemetry,
        poll_s: float,
        *,
        on_verdict: OnVerdict = ignore_verdict,
    ) -> None:
        self._on_verdict = on_verdict
        self._chain = chain
        self._court = chain.settlement.court
        self._promises = promises
        self._telemetry = telemetry
        self._poll_s = poll_s
        self._stood: dict[bytes, tuple[Promise, int]] = {}  # demanded, in which term of the office

    # ── headers ──

    async def approve(self, one: Posted, state: EpochState, transition: Transition) -> None:
        """Look at a header that follows from its batch, and to which `state` has gone on.

        Looks again until the chain has answered: a header that nobody looked at becomes final.
        """
        while True:
            with survive(self._telemetry, "watch"):
                await self._look(one, state, list(transition.channels))
                return
            await trio.sleep(self._poll_s)

    async def _look(self, one: Posted, state: EpochState, channels: list[int]) -> None:
        facts = await in_thread(
            self._read_facts, one.posted, state, channels, deadline_s=CHAIN_DEADLINE_S
        )
        epoch = one.posted.header.epoch
        accusations = _find_late(state, facts, channels)
        for accusation in accusations:
            name = type(accusation).__name__
            self._on_verdict(Verdict(epoch, "contradicted", name))
            if await self._convict(one, accusation):
                return
        self._promises.forget_kept(state)
        if not accusations:
            detail = f"{state.log.size} receipts in all; {len(channels)} channels"
            self._on_verdict(Verdict(epoch, "holds", f"{detail} moved, each of them funded"))

    async def accuse(self, one: Posted, state: EpochState, error: BatchError) -> None:
        """Act on a header that does not follow from its batch; `state` stands before it."""
        self._on_verdict(Verdict(one.posted.header.epoch, "contradicted", str(error)))
        with survive(self._telemetry, "watch"):
            # Copies: an inquiry takes as long as the chain does, and the mirror goes on meanwhile.
            before, after = await trio.to_thread.run_sync(_two_states, state, one)
            facts = await in_thread(
                self._read_facts,
                one.posted,
                after,
                range(after.channels.size),
                deadline_s=CHAIN_DEADLINE_S,
            )
            case = Case(before, one.posted.header, facts)
            if after.header == one.posted.header:
                for accusation in find_lies(case, after):
                    if await self._convict(one, accusation):
                        return
            await self._inquire(one, Inquiry(case, after))

    async def _inquire(self, one: Posted, inquiry: Inquiry) -> None:
        epoch = one.posted.header.epoch
        for _ in range(MAX_DEMANDS):
            accusation = inquiry.accuse()
            if accusation is not None and await self._convict(one, accusation):
                return
            question = inquiry.ask()
            if question is None:
                self._telemetry.log(f"watch: epoch {epoch} differs from its batch, but robs nobody")
                return
            try:
                await in_thread(
                    self._court.demand, one.posted, question, deadline_s=CHAIN_DEADLINE_S
                )
                self._telemetry.count("demands_made")
            except ContractReverted as error:
                if error.error in GONE:
                    return
                if error.error not in ALREADY:
                    raise
            if await self._wait(one, question, inquiry):
                return

    async def _wait(self, one: Posted, question: Question, inquiry: Inquiry) -> bool:
        """Wait for the answer to a demand; True when there was none in time, which convicts."""
        while True:
            await trio.sleep(self._poll_s)
            found = await in_thread(
                self._court.find_answer, one.posted, question, deadline_s=CHAIN_DEADLINE_S
            )
            if found is not None:
                inquiry.hear(found)
                return False
            try:
                await in_thread(
                    self._court.convict_default,
                    one.posted,
                    one.before,
                    question,
                    deadline_s=CHAIN_DEADLINE_S,
                )
            except ContractReverted as error:
                if error.error == "NotDue":
                    continue
                if error.error in GONE:
                    return True
                raise
            self._tell(one, "it did not answer a demand")
            return True

    async def _convict(self, one: Posted, accusation: Accusation) -> bool:
        """Show a proof to the contract; True when it convicts, by us or by somebody faster."""
        name = type(accusation).__name__
        try:
            await in_thread(
                self._court.prove,
                one.posted,
                one.before,
                accusation,
                deadline_s=CHAIN_DEADLINE_S,
            )
        except ContractReverted as error:
            if error.error in GONE:
                self._on_verdict(
                    Verdict(one.posted.header.epoch, "convicted", "somebody was faster")
                )
                return True
            self._telemetry.log(f"watch: the contract does not take this proof ({name}): {error}")
            return False
        self._tell(one, name)
        return True

    def _tell(self, one: Posted, why: str) -> None:
        self._telemetry.count("aggregators_convicted")
        self._telemetry.log(
            f"watch: epoch {one.posted.header.epoch} convicted its aggregator: {why}"
        )
        self._on_verdict(Verdict(one.posted.header.epoch, "convicted", why))

    def _read_facts(
        self, posted: PostedHeader, state: EpochState, channels: Iterable[int]
    ) -> Facts:
        ids = [state.channel(index).leaf.channel_id for index in channels]
        states = self._chain.channels.read_many(ids, LATEST)
        return Facts(
            posted_at=posted.posted_at,
            claimed={channel: one.total_claimed for channel, one in zip(ids, states, strict=True)},
            left_at=self._chain.settlement.left_at_many(ids),
            promises=self._promises.overdue(posted.posted_at),
        )

    # ── promises that no header keeps ──

    async def run(self) -> None:
        """Demand what was promised and is in no header, until cancelled."""
        while True:
            with survive(self._telemetry, "watch: promises"):
                for verdict in await in_thread(self._chase, deadline_s=CHAIN_DEADLINE_S):
                    self._on_verdict(verdict)
            await trio.sleep(self._poll_s)

    def _chase(self) -> list[Verdict]:
        verdicts: list[Verdict] = []
        overdue = self._promises.overdue(self._chain.rpc.get_block(LATEST).timestamp)
        if not overdue and not self._stood:
            return verdicts
        office = self._chain.settlement.read_office()
        for promise in overdue:
            if promise.body not in self._stood and office.aggregator is not None:
                with suppress(ContractReverted):  # asked before, or its channel has left
                    self._court.stand(promise)
                    self._telemetry.log("watch: an overdue promise is demanded")
                self._stood[promise.body] = (promise, office.term)
        for body, (promise, term) in list(self._stood.items()):
            try:
                self._court.convict_broken(promise, term)
            except ContractReverted as error:
                if error.error != "NotDue":
                    del self._stood[body]
                    self._promises.forget(promise)
                continue
            del self._stood[body]
            self._promises.forget(promise)
            self._telemetry.count("aggregators_convicted")
            self._telemetry.log("watch: a promise was broken; its aggregator is convicted")
            place = f"receipt {promise.sequence} of channel {promise.channel_id.hex()}"
            verdicts.append(Verdict(None, "convicted", f"{place} was promised and is in no header"))
        return verdicts


def _two_states(state: EpochState, one: Posted) -> tuple[EpochState, EpochState]:
    """Copy the state before a header, and go on in another copy as a careless aggregator would."""
    data = write_checkpoint(state)
    before, after = (read_checkpoint(data, state.network) for _ in range(2))
    with suppress(BatchError):  # no batch of this network: what the header has is searched for
        after.apply(follow(one.batch, after, one.manifests).transition)
    return before, after


def _find_late(state: EpochState, facts: Facts, channels: Iterable[int]) -> Sequence[Accusation]:
    """Find what convicts a header that follows from its batch: money that is not there, promises
    that are not kept.
    """
    promised = {state.find_channel(promise.channel_id) for promise in facts.promises}
    places = dict.fromkeys([*channels, *(index for index in promised if index is not None)])
    assert state.header is not None
    case = Case(EpochState(state.network), state.header, facts)
    return [
        accusation
        for index in places
        for accusation in case.against_channel(state.show_channel(index))
    ]
