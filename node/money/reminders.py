"""Reads from the chain which promises of ours somebody demands to see kept: after a lost disk it
knows more of them than we do.

Reads the last blocks again each time, since a reorganisation may bring a demand into one that was
read already. Decides nothing.
"""

from __future__ import annotations

from proofs.chain.client import ChainClient
from proofs.errors import ProofError
from proofs.recall import Recalled, read_reminder

from ..telemetry import Telemetry
from .responding import AGAIN_BLOCKS


class Reminders:
    """The promises that are demanded and not shown kept yet. One owner at a time; blocks."""

    def __init__(self, chain: ChainClient, telemetry: Telemetry) -> None:
        self._chain = chain
        self._telemetry = telemetry
        self._next_block = 0
        self._open: dict[bytes, Recalled] = {}  # by the demand's id

    def read(self) -> list[Recalled]:
        """Read what is demanded now. ChainError."""
        court = self._chain.settlement.court
        first = self._chain.deployment.first_block
        last = self._chain.rpc.block_number()
        for demand_id, reminder in court.stood(max(first, self._next_block), last).items():
            try:
                self._open[demand_id] = read_reminder(reminder, self._chain.network)
            except ProofError as error:
                self._telemetry.log(f"reminders: what is demanded cannot be included: {error}")
        self._next_block = last + 1 - AGAIN_BLOCKS
        for demand_id in list(self._open):
            if not court.is_open(demand_id):
                del self._open[demand_id]
        return list(self._open.values())
