"""Asks for what was promised and is in no header, and convicts an aggregator that posts other
things instead.

    overdue, and next in its channel → demanded, with all that is needed to keep it (a lost disk is
    no lie) → a header posted after it was due, an answer time old, and still no answer → convicted

Knows no header's content; the mirror says where a channel stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import trio

from p2p.errors import P2pError
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.epoch import ChannelLeaf, Shown
from proofs.promise import Promise, Reminder
from proofs.receipt import BARE_BASE
from proofs.voucher import NO_ADDRESS

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from .mirror import Mirror
from .promises import Heard, PromiseBook
from .published import Published
from .watching import OnVerdict, Verdict, ignore_verdict

CHAIN_DEADLINE_S = 120.0
MAX_ASKED = 64  # at once


@dataclass(frozen=True)
class Asked:
    """A promise that was demanded, in which term of the office, until when it is to be kept, and
    the first header that was posted later.
    """

    promise: Promise
    term: int
    until: int
    later: PostedHeader | None = None


class Chaser:
    """The promises that this daemon has heard, and asks for where they are not kept."""

    def __init__(
        self,
        chain: ChainClient,
        promises: PromiseBook,
        mirror: Mirror,
        published: Published,
        telemetry: Telemetry,
        *,
        on_verdict: OnVerdict = ignore_verdict,
    ) -> None:
        self._chain = chain
        self._court = chain.settlement.court
        self._promises = promises
        self._mirror = mirror
        self._published = published
        self._telemetry = telemetry
        self._on_verdict = on_verdict
        self._asked: dict[bytes, Asked] = {}  # by the receipt's digest

    async def run(self, interval_s: float) -> None:
        """Ask, and convict, every interval in which there is a promise, until cancelled."""
        while True:
            with survive(self._telemetry, "promises"):
                if self._promises or self._asked:
                    await self._ask_all()
                for digest in list(self._asked):
                    await self._press(digest)
            await trio.sleep(interval_s)

    async def _ask_all(self) -> None:
        now = await in_thread(self._read_time, deadline_s=CHAIN_DEADLINE_S)
        self._promises.forget_kept(self._mirror.history.state)
        for heard in list(self._promises.due(now, self._mirror.history.state)):
            if heard.promise.body not in self._asked and len(self._asked) < MAX_ASKED:
                await self._ask(heard)

    def _read_time(self) -> int:
        """Return the time up to which the mirror may have seen headers: a promise that is kept
        above the depth that counts is not demanded. Blocks.
        """
        return self._chain.finality.read().timestamp

    async def _ask(self, heard: Heard) -> None:
        manifest = b""
        if heard.adapter != BARE_BASE:
            try:
                manifest = await self._published.manifest(heard.adapter)
            except P2pError:  # whoever has it asks
                return
        state = self._mirror.history.state
        posted = self._mirror.last_posted()
        index = state.find_channel(heard.promise.channel_id)
        earlier = None if index is None else state.show_channel(index)
        if earlier is None or earlier.leaf.sequence == heard.promise.sequence - 1:
            reminder = heard.remind(manifest)
            stand = partial(self._stand, reminder, posted if earlier else None, earlier)
            asked = await in_thread(stand, deadline_s=CHAIN_DEADLINE_S)
            if asked is not None:
                self._asked[heard.promise.body] = asked
            else:
                self._promises.forget(heard.promise)

    def _stand(
        self,
        reminder: Reminder,
        posted: PostedHeader | None,
        earlier: Shown[ChannelLeaf] | None,
    ) -> Asked | None:
        """Demand that a promise be kept, unless somebody did; None where nobody can. Blocks."""
        promise = reminder.promise
        term = self._chain.settlement.read_office().term
        found = self._court.find_stand(promise, term)
        if found is None:
            try:
                self._court.stand(reminder, posted, earlier)
            except ContractReverted as error:  # not claimed now, or its channel leaves
                self._telemetry.log(f"promises: one that is overdue cannot be demanded: {error}")
                return None
            self._telemetry.log("promises: an overdue one is demanded")
            self._telemetry.count("promises_demanded")
            found = self._court.find_stand(promise, term)
        return None if found is None or not found.is_open else Asked(promise, term, found.until)

    async def _press(self, digest: bytes) -> None:
        asked = self._asked[digest]
        posted = self._mirror.last_posted()
        if asked.later is None and posted is not None and posted.posted_at > asked.until:
            asked = self._asked[digest] = replace(asked, later=posted)
        try:
            is_convicted = await in_thread(self._convict, asked, deadline_s=CHAIN_DEADLINE_S)
        except ContractReverted as error:
            if error.error == "UnknownHeader":  # there is none yet, or it was taken back
                self._asked[digest] = replace(asked, later=None)
            elif error.error == "NoSuchDemand":  # it was shown kept
                del self._asked[digest]
            return
        del self._asked[digest]
        self._promises.forget(asked.promise)
        if is_convicted:
            self._telemetry.count("aggregators_convicted")
            self._telemetry.log("promises: one was broken; its aggregator is convicted")
            place = f"receipt {asked.promise.sequence} of channel {asked.promise.channel_id.hex()}"
            self._on_verdict(Verdict(None, "convicted", f"{place} was promised and left out"))

    def _convict(self, asked: Asked) -> bool:
        """Convict where the time is over; False where only the fee came back. Blocks."""
        settlement = self._chain.settlement
        self._court.convict_broken(asked.promise, asked.term, asked.later)
        return settlement.read_office().term > asked.term and settlement.aggregator() == NO_ADDRESS
