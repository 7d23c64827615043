"""Answers what others demand to see of a right header, so that nobody is convicted for being slow,
and ends the hold of what was answered late, so that the header becomes final.

Anybody who has the state can answer; half the fee of the demand is the answerer's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from proofs.chain.answers import Block
from proofs.chain.client import ChainClient
from proofs.chain.court import DemandState
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.court import Question, answer, keeps
from proofs.promise import Promise
from proofs.state import EpochState

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .heads import Heads
from .mirror import Mirror

ANSWER_DEADLINE_S = 600.0  # a state of long ago is recomputed for it
AGAIN_BLOCKS = 64  # read again each time: a reorganisation may bring there what was elsewhere
StateAt = Callable[[int], EpochState]


class Respondent:
    """The demands about headers that can still be challenged, and about receipts that a header must
    have: promised ones, and those that somebody put on chain.

    `state_at` gives the state after an epoch, and may take its time.
    """

    def __init__(
        self, chain: ChainClient, state_at: StateAt, mirror: Mirror, telemetry: Telemetry
    ) -> None:
        self._chain = chain
        self._settlement = chain.settlement
        self._state_at = state_at
        self._mirror = mirror
        self._telemetry = telemetry
        self._next_block = chain.deployment.first_block
        self._asked: dict[PostedHeader, set[Question]] = {}  # what is open, or holds it
        self._forced: set[bytes] = set()
        self._stood: dict[bytes, Promise] = {}  # by the demand's id

    async def run(self, heads: Heads, interval_s: float) -> None:
        """Answer what is demanded, whenever there is something new, until cancelled."""
        turns = heads.turns(interval_s, self._is_under_way)
        while True:
            head = await turns.next()
            with survive(self._telemetry, "answers to demands"):
                look = partial(
                    self._answer_all,
                    head,
                    headers=self._mirror.open_headers(),
                    newest=self._mirror.last_posted(),
                )
                await in_thread(look, deadline_s=ANSWER_DEADLINE_S)
                turns.looked()

    def _is_under_way(self) -> bool:
        """Return whether a demand is not settled, or the mirror has other headers by now."""
        return bool(
            self._forced
            or self._stood
            or any(self._asked.values())
            or self._mirror.open_headers()[-1:] != list(self._asked)[-1:]
        )

    def _answer_all(
        self, head: Block | None, headers: Sequence[PostedHeader], newest: PostedHeader | None
    ) -> None:
        last = self._chain.rpc.block_number() if head is None else head.number
        first = max(self._chain.deployment.first_block, self._next_block - AGAIN_BLOCKS)
        demanded = self._find_demanded(headers, first, last)
        self._asked = {
            posted: self._answer_demands(
                posted, self._asked.get(posted, set()) | demanded[posted.header.epoch]
            )
            for posted in headers
        }
        self._forced |= set(self._settlement.forced(first, last))
        self._stood |= {
            demand_id: reminder.promise
            for demand_id, reminder in self._settlement.court.stood(first, last).items()
        }
        self._next_block = last + 1
        if newest is None or not (self._forced or self._stood):
            return
        state = self._state_at(newest.header.epoch)
        if state.header == newest.header:
            self._answer_forced(newest, state)
            self._answer_stands(newest, state)

    def _find_demanded(
        self, headers: Sequence[PostedHeader], first: int, last: int
    ) -> defaultdict[int, set[Question]]:
        """Read what was demanded since the last look, of headers that are new here since they were
        posted; by epoch.
        """
        new = [posted.block for posted in headers if posted not in self._asked]
        demanded = defaultdict[int, set[Question]](set)
        for epoch, question in self._settlement.court.demanded(min([first, *new]), last):
            demanded[epoch].add(question)
        return demanded

    def _answer_demands(
        self, posted: PostedHeader, candidates: Iterable[Question]
    ) -> set[Question]:
        """Answer what of these is demanded of a header and open; gives what is not settled."""
        court = self._settlement.court
        unsettled = set()
        for question in candidates:
            demand = court.find_demand(posted, question)
            if demand is None or demand.state is DemandState.CLOSED:
                continue
            unsettled.add(question)
            if demand.is_open:
                self._answer(posted, question)
            else:
                self._release(posted, question)
        return unsettled

    def _release(self, posted: PostedHeader, question: Question) -> None:
        """End the hold of an answer that came late in the window, if its time is over: the contract
        says so before anything is sent.
        """
        try:
            self._settlement.court.release(posted, question)
        except ContractReverted as error:
            if error.error not in ("NotDue", "NoSuchDemand"):  # it is early; somebody was faster
                raise
        else:
            self._telemetry.count("holds_released")

    def _answer(self, posted: PostedHeader, question: Question) -> None:
        state = self._state_at(posted.header.epoch)
        if state.header != posted.header:
            return
        try:
            self._settlement.court.answer(posted, answer(state, question))
        except ContractReverted as error:
            what = f"{question.part.name.lower()} {question.index}"
            self._telemetry.trouble("answers", f"the demand of {what} is not answered: {error}")
            return
        self._telemetry.clear("answers")
        self._telemetry.count("demands_answered")

    def _answer_forced(self, posted: PostedHeader, state: EpochState) -> None:
        """Show that the header has the receipts that were put on chain."""
        for channel_id in list(self._forced):
            forced = self._settlement.find_forced(channel_id)
            if forced is None:
                self._forced.discard(channel_id)
                continue
            index = state.find_channel(channel_id)
            if index is None or state.channel(index).leaf.sequence < forced.sequence:
                continue
            self._settlement.answer_forced(posted, state.show_channel(index))
            self._forced.discard(channel_id)
            self._telemetry.count("demands_answered")

    def _answer_stands(self, posted: PostedHeader, state: EpochState) -> None:
        """Show that the header keeps the promises that somebody demands to see kept."""
        for demand_id, promise in list(self._stood.items()):
            if not self._settlement.court.is_open(demand_id):
                del self._stood[demand_id]
                continue
            index = state.find_channel(promise.channel_id)
            if index is None or not keeps(state.channel(index).leaf, promise):
                continue
            try:
                shown = state.show_channel(index)
                self._settlement.court.answer_stand(promise, posted, shown)
                self._telemetry.count("demands_answered")
            except ContractReverted as error:  # of an earlier term of the office
                self._telemetry.log(f"answers: a promise was not shown kept: {error}")
            del self._stood[demand_id]
