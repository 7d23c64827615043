"""Holds the aggregator to its word: looks at every header while it can be challenged, and convicts
the one that lies. One honest watcher is enough.

    a header that follows from its batch     → are its channels funded? are promises kept?
    one that does not                        → which proof convicts it? else: demand, and look again
    demands of others                        → answer them, where the header is right

What is a lie is decided by proofs/court.py and proofs/inquiry.py; this carries it to the chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from proofs.batch import follow
from proofs.chain.client import ChainClient
from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.structs import Demand, PostedHeader
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.court import Accusation, Case, Facts, answer, find_lies
from proofs.errors import BatchError
from proofs.inquiry import Inquiry
from proofs.promise import Promise
from proofs.state import EpochState, Transition

from ..telemetry import Telemetry
from ..threads import in_thread
from .mirror import Posted
from .promises import PromiseBook

CHAIN_DEADLINE_S = 120.0
MAX_DEMANDS = 256  # of one inquiry


class Watcher:
    """The judge of one daemon's mirror. `state` is the mirror's, as it stands now."""

    def __init__(
        self, chain: ChainClient, promises: PromiseBook, telemetry: Telemetry, poll_s: float
    ) -> None:
        self._chain = chain
        self._promises = promises
        self._telemetry = telemetry
        self._poll_s = poll_s

    async def approve(self, one: Posted, state: EpochState, transition: Transition) -> None:
        """Look at a header that follows from its batch, and to which `state` has gone on."""
        channels = list(transition.channels)
        facts = await in_thread(
            self._read_facts, one.posted, state, channels, deadline_s=CHAIN_DEADLINE_S
        )
        for accusation in _find_late(state, facts, channels):
            if await self._convict(one, accusation):
                return
        self._promises.forget_kept(state, one.posted.posted_at)

    async def accuse(self, one: Posted, state: EpochState, error: BatchError) -> None:
        """Act on a header that does not follow from its batch; `state` stands before it."""
        try:
            await self._accuse(one, state)
        except (ChainError, trio.TooSlowError) as failure:
            self._telemetry.log(
                f"watch: epoch {one.posted.header.epoch} is not convicted yet: {failure}"
            )

    async def _accuse(self, one: Posted, state: EpochState) -> None:
        # Copies: an inquiry takes as long as the chain does, and the mirror must not change under it.
        before, after = await trio.to_thread.run_sync(_two_states, state, one)
        changed = range(after.channels.size)
        facts = await in_thread(
            self._read_facts, one.posted, after, changed, deadline_s=CHAIN_DEADLINE_S
        )
        case = Case(before, one.posted.header, facts)
        if after.header == one.posted.header:
            for accusation in find_lies(case, after):
                if await self._convict(one, accusation):
                    return
        await self._inquire(one, Inquiry(case, after))

    async def _inquire(self, one: Posted, inquiry: Inquiry) -> None:
        for _ in range(MAX_DEMANDS):
            accusation = inquiry.accuse()
            if accusation is not None and await self._convict(one, accusation):
                return
            question = inquiry.ask()
            if question is None:
                self._telemetry.log(
                    f"watch: epoch {one.posted.header.epoch} differs from its batch, but pays nobody"
                    " what is not his"
                )
                return
            settlement = self._chain.settlement
            await in_thread(settlement.demand, one.posted, question, deadline_s=CHAIN_DEADLINE_S)
            self._telemetry.count("demands_made")
            while True:
                await trio.sleep(self._poll_s)
                found = await in_thread(
                    settlement.find_answer, one.posted, question, deadline_s=CHAIN_DEADLINE_S
                )
                if found is not None:
                    inquiry.hear(found)
                    break
                try:
                    await in_thread(
                        settlement.convict_default,
                        one.posted,
                        one.before,
                        question,
                        deadline_s=CHAIN_DEADLINE_S,
                    )
                except ContractReverted as error:
                    if error.error == "NotDue":
                        continue
                    raise
                self._tell(one, "it did not answer a demand")
                return

    async def _convict(self, one: Posted, accusation: Accusation) -> bool:
        """Show a proof to the contract; True when it convicts, by us or by somebody faster."""
        name = type(accusation).__name__
        try:
            await in_thread(
                self._chain.settlement.accuse,
                accusation,
                one.posted,
                one.before,
                deadline_s=CHAIN_DEADLINE_S,
            )
        except ContractReverted as error:
            if error.error == "UnknownHeader":
                return True  # it was taken back already
            self._telemetry.log(f"watch: the contract does not take this proof ({name}): {error}")
            return False
        except (ChainError, trio.TooSlowError) as error:
            self._telemetry.log(f"watch: the proof ({name}) was not shown now: {error}")
            return False
        self._tell(one, name)
        return True

    def _tell(self, one: Posted, why: str) -> None:
        self._telemetry.count("aggregators_convicted")
        self._telemetry.log(
            f"watch: epoch {one.posted.header.epoch} convicted its aggregator: {why}"
        )

    def _read_facts(
        self, posted: PostedHeader, state: EpochState, channels: Iterable[int]
    ) -> Facts:
        ids = [state.channel(index).leaf.channel_id for index in channels]
        states = self._chain.channels.read_many(ids, "latest")
        return Facts(
            posted_at=posted.posted_at,
            claimed={
                channel: one.total_claimed for channel, one in zip(ids, states, strict=True)
            },
            left_at=self._chain.settlement.left_at(ids),
            promises=self._promises.overdue(posted.posted_at),
        )


class Respondent:
    """Answers what others demand to see of a right header: nobody is convicted for being slow."""

    def __init__(self, chain: ChainClient, telemetry: Telemetry) -> None:
        self._chain = chain
        self._telemetry = telemetry
        self._answered: set[bytes] = set()

    async def answer_all(self, state: EpochState, headers: Sequence[PostedHeader]) -> None:
        """Answer the open demands about these headers, of which `state` is after the last."""
        demands = await in_thread(
            self._chain.settlement.open_demands, deadline_s=CHAIN_DEADLINE_S
        )
        for demand in demands:
            if demand.id not in self._answered:
                await self._answer(demand, state, headers)

    async def _answer(
        self, demand: Demand, state: EpochState, headers: Sequence[PostedHeader]
    ) -> None:
        here = next((one for one in headers if one.header.epoch == demand.epoch), None)
        if here is None or state.header != here.header:
            return
        try:
            await in_thread(
                self._chain.settlement.answer,
                here,
                answer(state, demand.question),
                deadline_s=CHAIN_DEADLINE_S,
            )
        except (ChainError, trio.TooSlowError) as error:
            self._telemetry.log(f"watch: a demand was not answered now: {error}")
            return
        self._answered.add(demand.id)
        self._telemetry.count("demands_answered")


def _two_states(state: EpochState, one: Posted) -> tuple[EpochState, EpochState]:
    """Copy the state before a header, and go on in another copy as a careless aggregator would."""
    data = write_checkpoint(state)
    before, after = (read_checkpoint(data, state.network) for _ in range(2))
    try:
        after.apply(follow(one.batch, after, one.manifests).transition)
    except BatchError:
        pass  # no batch of this network: what the header commits to is searched by demands
    return before, after


def _find_late(
    state: EpochState, facts: Facts, channels: Sequence[int]
) -> Iterable[Accusation]:
    """What convicts a header that follows from its batch: money that is not there, promises."""
    due = {promise.channel_id for promise in facts.promises}
    places = dict.fromkeys(channels)
    places |= {
        index: None for index in map(state.find_channel, due) if index is not None
    }
    assert state.header is not None
    case = Case(EpochState(state.network), state.header, facts)
    for index in places:
        yield from case.against_channel(state.show_channel(index))

