"""Holds the aggregator to its word: looks at every header while it can be challenged, and convicts
the one that lies. One honest watcher is enough.

    a header that follows from its batch     → are its channels funded?
    one that does not                        → which proof convicts it? else: demand, and look again
    one whose batch nobody gives             → demand what is ours in it, then whatever it changed

What is a lie is decided by proofs/court.py; a lie that must be searched for, searching.py finds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import trio

from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.court import (
    Accusation,
    Case,
    Facts,
    Part,
    Question,
)
from proofs.errors import BatchError
from proofs.state import EpochState, Transition

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .mirror import Pair, Posted
from .promises import PromiseBook
from .searching import GONE, Known, Search, Searcher, copy_state, two_states

CHAIN_DEADLINE_S = 120.0
MAX_FIRST = 64  # demands about our own accounts and channels
MAX_MISSED = 64


@dataclass(frozen=True)
class Verdict:
    """What came of one look: the header holds; it does not follow, or nobody gives its batch, which
    is being acted on; its aggregator is convicted. `epoch` is None where no header was looked at,
    but a promise.
    """

    epoch: int | None
    word: Literal["holds", "contradicted", "hidden", "convicted"]
    detail: str


OnVerdict = Callable[[Verdict], None]


def ignore_verdict(verdict: Verdict) -> None:
    """Hear a verdict that the log tells already."""


class Watcher:
    """The judge of one daemon's mirror. `on_verdict` hears what comes of each look.

    `accounts` are the node's own; `own_channels` gives the channels that it holds receipts of.
    """

    def __init__(
        self,
        chain: ChainClient,
        promises: PromiseBook,
        telemetry: Telemetry,
        poll_s: float,
        *,
        accounts: Sequence[bytes] = (),
        own_channels: Callable[[], Iterable[bytes]] = tuple,
        on_verdict: OnVerdict = ignore_verdict,
    ) -> None:
        self._accounts = tuple(accounts)
        self._own_channels = own_channels
        self._missed: deque[bytes] = deque(maxlen=MAX_MISSED)  # words of headers
        self._on_verdict = on_verdict
        self._chain = chain
        self._promises = promises
        self._court = chain.settlement.court
        self._telemetry = telemetry
        self._poll_s = poll_s
        self._searcher = Searcher(chain, telemetry, poll_s, convict=self._convict, tell=self._tell)

    # ── headers ──

    async def approve(self, one: Posted, state: EpochState, transition: Transition) -> None:
        """Look at a header that follows from its batch, and to which `state` has gone on.

        Looks again until the chain has answered: a header that nobody looked at becomes final.
        """
        self._searcher.end(one.posted.word)
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
        if not accusations:
            detail = f"{state.log.size} receipts in all; {len(channels)} channels"
            self._on_verdict(Verdict(epoch, "holds", f"{detail} moved, each of them funded"))

    async def accuse(self, one: Posted, state: EpochState, error: BatchError) -> None:
        """Act on a header that does not follow from its batch; `state` stands before it.

        The search goes on beside the mirror: it takes as long as the chain does.
        """
        self._on_verdict(Verdict(one.posted.header.epoch, "contradicted", str(error)))
        before, after, touched = await trio.to_thread.run_sync(two_states, state, one)
        self._searcher.begin(Search(one, before, after, touched))

    async def miss(self, pair: Pair, state: EpochState) -> None:
        """Act on a header whose batch nobody gives; `state` stands before it.

        What we have money in is demanded first, then whatever else the header changed.
        """
        if pair.posted.word in self._missed:
            return
        self._missed.append(pair.posted.word)
        epoch = pair.posted.header.epoch
        self._telemetry.count("batches_missed")
        self._telemetry.log(f"watch: nobody gives the batch of epoch {epoch}; it is demanded")
        self._on_verdict(Verdict(epoch, "hidden", "nobody gives its batch"))
        before = await trio.to_thread.run_sync(copy_state, state)
        first = list(self._first_questions(before, pair.posted.posted_at))
        self._searcher.begin(Search(pair, before, before, first=first[:MAX_FIRST]))

    def _first_questions(self, state: EpochState, posted_at: int) -> Iterator[Question]:
        """Find what of a header this node can place by itself: where promises must be kept, its own
        accounts, its own channels.
        """
        promised = [promise.channel_id for promise in self._promises.overdue(posted_at)]
        accounts = map(state.find_account, self._accounts)
        channels = map(state.find_channel, [*promised, *self._own_channels()])
        for part, places in ((Part.ACCOUNT, accounts), (Part.CHANNEL, channels)):
            yield from (Question(part, index) for index in places if index is not None)

    async def _convict(self, one: Pair, accusation: Accusation) -> bool:
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

    def _tell(self, one: Pair, why: str) -> None:
        self._telemetry.count("aggregators_convicted")
        self._telemetry.log(
            f"watch: epoch {one.posted.header.epoch} convicted its aggregator: {why}"
        )
        self._on_verdict(Verdict(one.posted.header.epoch, "convicted", why))

    def _read_facts(
        self, posted: PostedHeader, state: EpochState, channels: Iterable[int]
    ) -> Facts:
        known = Known()
        known.look_up(self._chain, [state.channel(index).leaf.channel_id for index in channels])
        return Facts(posted.posted_at, known.claimed, known.left_at)

    async def wait_idle(self) -> None:
        """Wait until no header is being searched for what convicts it."""
        await self._searcher.wait_idle()

    async def run(self) -> None:
        """Search the headers that lie or hide, until cancelled."""
        await self._searcher.run()


def _find_late(state: EpochState, facts: Facts, channels: Iterable[int]) -> Sequence[Accusation]:
    """Find what convicts a header that follows from its batch: money that is not there, a channel
    that had left.
    """
    assert state.header is not None
    case = Case(EpochState(state.network), state.header, facts)
    return [
        accusation
        for index in channels
        for accusation in case.against_channel(state.show_channel(index))
    ]
