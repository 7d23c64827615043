"""Answers what others demand to see of a right header, so that nobody is convicted for being slow.

Anybody who has the state can answer; the fee of the demand is the answerer's.
"""

from __future__ import annotations

from collections.abc import Callable

from proofs.chain.client import ChainClient
from proofs.chain.court import DemandState
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.chain.views import LATEST
from proofs.court import Question, answer
from proofs.state import EpochState

from ..telemetry import Telemetry

StateAt = Callable[[int], EpochState | None]


class Respondent:
    """The demands about headers that can still be challenged. Its methods block.

    `state_at` gives the state after an epoch; None where it is not here any more.
    """

    def __init__(self, chain: ChainClient, state_at: StateAt, telemetry: Telemetry) -> None:
        self._chain = chain
        self._court = chain.settlement.court
        self._state_at = state_at
        self._telemetry = telemetry

    def answer_all(self, headers: list[PostedHeader]) -> None:
        """Answer every open demand about these headers."""
        last = self._chain.rpc.block_number()
        for posted in headers:
            for question in self._court.demanded(posted, posted.block, last):
                demand = self._court.find_demand(posted, question)
                if demand is not None and demand.state == DemandState.OPEN:
                    self._answer(posted, question)

    def answer_forced(self, channel_ids: list[bytes], posted: PostedHeader) -> None:
        """Show of these channels that the header has their forced receipts."""
        state = self._state_at(posted.header.epoch)
        for channel_id in channel_ids:
            forced = self._chain.settlement.find_forced(channel_id)
            index = state.find_channel(channel_id) if state else None
            if forced is None or state is None or index is None:
                continue
            if state.channel(index).leaf.sequence >= forced.sequence:
                self._chain.settlement.answer_forced(posted, state.show_channel(index))
                self._telemetry.count("demands_answered")

    def _answer(self, posted: PostedHeader, question: Question) -> None:
        state = self._state_at(posted.header.epoch)
        if state is None or state.header != posted.header:
            return
        try:
            self._court.answer(posted, answer(state, question))
        except ContractReverted as error:
            self._telemetry.log(f"answers: a demand was not answered: {error}")
            return
        self._telemetry.count("demands_answered")
