"""Searches one header after the other for what convicts it, demand by demand, as proofs/inquiry.py
decides; whose batch is known and whose nobody gives.

Demands cost a fee and can be made for two windows at most, so all leaves that are known to
differ are demanded at once: a round takes as long as one answer may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import trio

from proofs.batch import follow
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.chain.views import LATEST
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.court import (
    Accusation,
    Answer,
    Case,
    ChannelAnswer,
    EntryAnswer,
    Facts,
    Question,
    find_lies,
)
from proofs.errors import BatchError
from proofs.inquiry import Inquiry
from proofs.state import EpochState

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .mirror import Pair, Posted

CHAIN_DEADLINE_S = 120.0
MAX_DEMANDS = 256  # of one header
MAX_FOUND = 64
ALREADY = ("DemandedBefore",)  # somebody else asks the same
GONE = ("UnknownHeader", "OfficeVacant")  # it was taken back already
UNDECIDED = ("NotDue", "NoSuchDemand")  # there is time, or it was answered just now
LATE = ("TooLate",)  # it is final, or two windows old: nothing more can be asked

Convict = Callable[[Pair, Accusation], Awaitable[bool]]
Tell = Callable[[Pair, str], None]


@dataclass
class Known:
    """What the chain says of channels: what is claimed of each, and when it has left."""

    claimed: dict[bytes, int] = field(default_factory=dict)
    left_at: dict[bytes, int] = field(default_factory=dict)

    def look_up(self, chain: ChainClient, ids: Sequence[bytes]) -> None:
        """Add what the chain says of these. Blocks."""
        states = chain.channels.read_many(ids, LATEST)
        self.claimed |= {id_: one.total_claimed for id_, one in zip(ids, states, strict=True)}
        self.left_at |= chain.settlement.left_at_many(ids)


@dataclass(frozen=True)
class Search:
    """A header to be searched for what convicts it, and the own state beside it: what its batch
    leads to, which moves the channels `touched`, or what was before it.
    """

    one: Pair
    before: EpochState
    own: EpochState
    touched: Sequence[int] = ()
    first: Sequence[Question] = ()
    known: Known = field(default_factory=Known)


class Searcher:
    """The searches of one watcher. `convict` shows an accusation to the court; `tell` hears that a
    demand was not answered, which convicts.
    """

    def __init__(
        self,
        chain: ChainClient,
        telemetry: Telemetry,
        poll_s: float,
        *,
        convict: Convict,
        tell: Tell,
    ) -> None:
        self._chain = chain
        self._court = chain.settlement.court
        self._telemetry = telemetry
        self._poll_s = poll_s
        self._convict = convict
        self._tell = tell
        self._searches: deque[Search] = deque()
        self._found: deque[bytes] = deque(maxlen=MAX_FOUND)  # words of headers that need no search
        self._came = trio.Event()
        self._ended = trio.Event()

    def end(self, word: bytes) -> None:
        """Ask no more of a header: its batch came, and it follows from it."""
        self._found.append(word)

    def begin(self, search: Search) -> None:
        """Search a header, after those that came before."""
        self._searches.append(search)
        self._came.set()

    async def wait_idle(self) -> None:
        """Wait until no header is being searched for what convicts it."""
        while self._searches:
            await self._ended.wait()

    async def run(self) -> None:
        """Search what comes, one header after the other, until cancelled."""
        while True:
            self._came = trio.Event()
            while self._searches:
                await self._search(self._searches[0])
                self._searches.popleft()
                self._ended.set()
                self._ended = trio.Event()
            await self._came.wait()

    async def _search(self, search: Search) -> None:
        """Search a header until it is convicted, or seen through, or cannot be challenged."""
        while True:
            with survive(self._telemetry, "watch"):
                if await in_thread(
                    self._can_be_challenged, search.one.posted, deadline_s=CHAIN_DEADLINE_S
                ):
                    await self._look_through(search)
                return
            await trio.sleep(self._poll_s)

    def _can_be_challenged(self, posted: PostedHeader) -> bool:
        settlement = self._chain.settlement
        return settlement.is_posted(posted) and not settlement.is_final(posted)

    async def _look_through(self, search: Search) -> None:
        one = search.one
        case = await in_thread(self._open_case, search, deadline_s=CHAIN_DEADLINE_S)
        if search.own.header == one.posted.header:
            for accusation in find_lies(case, search.own):
                if await self._convict(one, accusation):
                    return
        await self._inquire(search, Inquiry(case, search.own, search.touched, search.first))

    def _open_case(self, search: Search) -> Case:
        own = search.own
        known = search.known
        ids = [own.channel(index).leaf.channel_id for index in range(own.channels.size)]
        known.look_up(self._chain, ids)
        posted = search.one.posted
        facts = Facts(posted.posted_at, known.claimed, known.left_at)
        return Case(search.before, posted.header, facts)

    async def _inquire(self, search: Search, inquiry: Inquiry) -> None:
        """Demand in rounds, in each all leaves that are known to differ."""
        epoch = search.one.posted.header.epoch
        left = MAX_DEMANDS
        while search.one.posted.word not in self._found:
            accusation = inquiry.accuse()
            if accusation is not None and await self._convict(search.one, accusation):
                return
            questions = list(islice(iter(inquiry.ask, None), left))
            left -= len(questions)
            asked = await self._demand_all(search.one, questions)
            if not asked:
                why = "no leaf is left to ask for" if left else f"it was asked {MAX_DEMANDS} times"
                self._telemetry.log(f"watch: epoch {epoch} showed nothing that convicts it; {why}")
                return
            for number, question in enumerate(asked):
                if await self._wait(search, question, inquiry):
                    await in_thread(
                        self._refund, search.one, asked[number + 1 :], deadline_s=CHAIN_DEADLINE_S
                    )
                    return

    def _refund(self, one: Pair, questions: Sequence[Question]) -> None:
        """Have the fees of demands given back whose header is gone. Blocks."""
        for question in questions:
            with suppress(ContractReverted):  # it was answered
                self._court.refund(one.posted, question)

    async def _demand_all(self, one: Pair, questions: Sequence[Question]) -> list[Question]:
        """Demand leaves; returns those that are demanded, by us or somebody else: all of them,
        unless it is too late.
        """
        for number, question in enumerate(questions):
            if not await self._demand(one, question):
                return list(questions[:number])
        return list(questions)

    async def _demand(self, one: Pair, question: Question) -> bool:
        """Demand one leaf, unless somebody did already; False when it is too late for that."""
        try:
            await in_thread(self._court.demand, one.posted, question, deadline_s=CHAIN_DEADLINE_S)
        except ContractReverted as error:
            if error.error in GONE + LATE:
                return False
            if error.error not in ALREADY:
                raise
        else:
            self._telemetry.count("demands_made")
        return True

    async def _wait(self, search: Search, question: Question, inquiry: Inquiry) -> bool:
        """Wait for the answer to a demand; True when there was none in time, which convicts."""
        one = search.one
        while True:
            found = await in_thread(
                self._court.find_answer, one.posted, question, deadline_s=CHAIN_DEADLINE_S
            )
            if found is not None:
                await in_thread(self._learn, search, found, deadline_s=CHAIN_DEADLINE_S)
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
                if error.error in GONE:
                    return True
                if error.error not in UNDECIDED:
                    raise
            else:
                self._tell(one, "it did not answer a demand")
                return True
            await trio.sleep(self._poll_s)

    def _learn(self, search: Search, found: Answer) -> None:
        """Look up a channel that an answer brought to light. Blocks."""
        if not isinstance(found, ChannelAnswer | EntryAnswer):
            return
        channel_id = found.channel.leaf.channel_id
        if channel_id not in search.known.claimed:
            search.known.look_up(self._chain, [channel_id])


def two_states(state: EpochState, one: Posted) -> tuple[EpochState, EpochState, Sequence[int]]:
    """Copy the state before a header, and go on in another copy as a careless aggregator would;
    with the channels that this moves.
    """
    before, after = copy_state(state), copy_state(state)
    try:
        transition = follow(one.batch, after, one.manifests, one.policies).transition
    except BatchError:  # no batch of this network: what the header has is searched for
        return before, after, ()
    after.apply(transition)
    return before, after, list(transition.channels)


def copy_state(state: EpochState) -> EpochState:
    """Copy a state. Blocks."""
    return read_checkpoint(write_checkpoint(state), state.network)
