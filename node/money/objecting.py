"""Shows a channel's leaf where somebody settles that channel as if no header had it, so that nobody
is paid twice.

    an exit is begun that says "no leaf" → the leaf is in a header → the exit is cancelled

Anybody who has the header's state can do that, within the contract's window. Knows no receipt.
"""

from __future__ import annotations

from collections.abc import Callable

from proofs.chain.answers import Block
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.state import EpochState

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .heads import Heads
from .mirror import Mirror

CHAIN_DEADLINE_S = 600.0  # a state of long ago is recomputed for it
AGAIN_BLOCKS = 64  # read again each time: a reorganisation may bring there what was elsewhere
StateAt = Callable[[int], EpochState | None]


class Objector:
    """The exits that say that no header has their channel.

    `state_at` gives the state after an epoch, or None where it is not here any more.
    """

    def __init__(
        self, chain: ChainClient, state_at: StateAt, mirror: Mirror, telemetry: Telemetry
    ) -> None:
        self._settlement = chain.settlement
        self._rpc = chain.rpc
        self._first_block = chain.deployment.first_block
        self._next_block = self._first_block
        self._state_at = state_at
        self._mirror = mirror
        self._telemetry = telemetry
        self._begun: set[bytes] = set()

    async def run(self, heads: Heads, interval_s: float) -> None:
        """Look whenever there is something new, until cancelled."""
        turns = heads.turns(interval_s, lambda: bool(self._begun))
        while True:
            head = await turns.next()
            with survive(self._telemetry, "objections to exits"):
                await in_thread(self._look, head, deadline_s=CHAIN_DEADLINE_S)
                turns.looked()

    def _look(self, head: Block | None) -> None:
        last = self._rpc.block_number() if head is None else head.number
        first = max(self._first_block, self._next_block - AGAIN_BLOCKS)
        self._begun |= set(self._settlement.exits_begun(first, last))
        self._next_block = last + 1
        for channel_id in list(self._begun):
            if self._is_done(channel_id):
                self._begun.discard(channel_id)

    def _is_done(self, channel_id: bytes) -> bool:
        """Cancel an exit that hides a leaf; False where that is not known yet."""
        pending = self._settlement.find_pending_exit(channel_id)
        if pending is None or not pending.absent_from:
            return True
        here = self._mirror.history.state
        epoch = min(here.epoch, pending.absent_from)
        posted = self._mirror.posted(epoch)
        state = self._state_at(epoch)
        if posted is None or state is None or state.header != posted.header:
            return False
        index = state.find_channel(channel_id)
        if index is None:  # so far; it may be in a header that is not here yet
            return epoch == pending.absent_from
        try:
            self._settlement.cancel_exit(posted, state.show_channel(index))
        except ContractReverted as error:  # it is paid, or somebody was faster
            self._telemetry.log(f"exits: the exit that hides a leaf is not cancelled: {error}")
        else:
            self._telemetry.count("exits_cancelled")
            self._telemetry.log(
                f"exits: channel {channel_id.hex()[:12]} was to be paid as if no header had it; its"
                " leaf was shown"
            )
        return True
