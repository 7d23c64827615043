"""Answers what others demand to see of a right header, so that nobody is convicted for being slow.

Anybody who has the state can answer; the fee of the demand is the answerer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.court import Question, answer
from proofs.state import EpochState

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread

ANSWER_DEADLINE_S = 600.0  # a state of long ago is recomputed for it
StateAt = Callable[[int], EpochState]
OpenHeaders = Callable[[], Sequence[PostedHeader]]


class Respondent:
    """The demands about headers that can still be challenged.

    `state_at` gives the state after an epoch, and may take its time; `headers` those that are open.
    """

    def __init__(
        self, chain: ChainClient, state_at: StateAt, headers: OpenHeaders, telemetry: Telemetry
    ) -> None:
        self._chain = chain
        self._settlement = chain.settlement
        self._state_at = state_at
        self._headers = headers
        self._telemetry = telemetry
        self._next_block = chain.deployment.first_block
        self._forced: set[bytes] = set()

    async def run(self, interval_s: float) -> None:
        """Answer what is demanded, every interval, until cancelled."""
        while True:
            with survive(self._telemetry, "answers to demands"):
                headers = list(self._headers())
                await in_thread(self._answer_all, headers, deadline_s=ANSWER_DEADLINE_S)
            await trio.sleep(interval_s)

    def _answer_all(self, headers: Sequence[PostedHeader]) -> None:
        last = self._chain.rpc.block_number()
        for posted in headers:
            for question in self._settlement.court.demanded(posted, posted.block, last):
                demand = self._settlement.court.find_demand(posted, question)
                if demand is not None and demand.is_open:
                    self._answer(posted, question)
        self._forced |= set(self._settlement.forced(self._next_block, last))
        self._next_block = last + 1
        if headers:
            self._answer_forced(headers[-1])

    def _answer(self, posted: PostedHeader, question: Question) -> None:
        state = self._state_at(posted.header.epoch)
        if state.header != posted.header:
            return
        try:
            self._settlement.court.answer(posted, answer(state, question))
        except ContractReverted as error:
            self._telemetry.log(f"answers: a demand was not answered: {error}")
            return
        self._telemetry.count("demands_answered")

    def _answer_forced(self, posted: PostedHeader) -> None:
        """Show that the header has the receipts that were put on chain."""
        if not self._forced:
            return
        state = self._state_at(posted.header.epoch)
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
