"""Asks several peers for one answer without paying two: the best first, another one when no offer
came in time; the first offer is taken, the others are left before they cost anything.

    first  ──asked──────── no offer in time ──────────────┐  offer too late: left
    second                 └──asked── offer: it answers ──┴────────▶

Two are waited for at once. One that made no offer for LATE_S may still make one, and is no longer
counted: who is frozen, or waits for something itself, keeps nobody from asking a third.

Decides who runs at once. Does not know what a question is, nor who is the best.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from ..errors import EngineLost, NodeError, PaymentError, RemoteError
from .peers import AnswerEnd, Peer

MAX_AT_ONCE = 2
LATE_S = 5.0
MAX_IN_ALL = 6  # asked at once, with those that are late

Attempt = Callable[["Entry"], Awaitable[AnswerEnd]]


class Entry:
    """One peer in a race."""

    def __init__(self, peer: Peer, race: Race) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.late_at = trio.current_time() + LATE_S
        self._race = race

    async def win(self) -> None:
        """This peer made an offer, and it is taken, unless another one was: then this is
        cancelled.
        """
        self._race.decide(self)
        await trio.lowlevel.checkpoint()

    @property
    def was_left(self) -> bool:
        """Whether another one's offer was taken."""
        return self.scope.cancel_called and not self._race.is_won_by(self)

    @property
    def has_rivals(self) -> bool:
        """Whether somebody else could answer if this peer does not."""
        return len(self._race.peers) > 1


@dataclass
class Race:
    """One round among `peers`, best first.

    - `patience` tells how long (s) to wait for a peer's offer before another one is asked as well.
    - `on_failure` hears of each peer that failed, and raises where nobody else should be asked.
    - Who failed is gone from `peers` after it; the others are still there.
    """

    peers: list[Peer]
    patience: Callable[[Peer], float]
    on_failure: Callable[[Peer, NodeError], None]
    _running: list[Entry] = field(default_factory=list)
    _winner: Entry | None = None
    _outcome: AnswerEnd | None = None
    _broken: Exception | None = None
    _news: trio.Event = field(default_factory=trio.Event)

    async def run(self, attempt: Attempt) -> AnswerEnd | None:
        """Return how the answer ended; None when the winner was lost, or all failed.

        `attempt` asks one peer, calls `win` when it has an offer, and goes on to the end. What it
        raises that is no failure of its peer, and what `on_failure` raises, is raised.
        """
        async with trio.open_nursery() as nursery:
            for peer in list(self.peers):
                entry = Entry(peer, self)
                self._running.append(entry)
                nursery.start_soon(self._contend, entry, attempt)
                await self._wait(self.patience(peer))
                if self._is_decided:
                    break
        if self._broken is not None:
            raise self._broken
        return self._outcome

    def decide(self, winner: Entry) -> None:
        """Take an offer, unless one was taken before."""
        if self._winner is None:
            self._winner = winner
        self._leave(self._winner)
        self._news.set()

    def is_won_by(self, entry: Entry) -> bool:
        """Whether it is this one whose offer was taken."""
        return self._winner is entry

    @property
    def _is_decided(self) -> bool:
        return self._winner is not None or self._broken is not None

    def _leave(self, winner: Entry | None) -> None:
        for entry in self._running:
            if entry is not winner:
                entry.scope.cancel()

    async def _wait(self, patience_s: float) -> None:
        """Wait until the next one may be asked: nobody runs, or those who do are late and few."""
        with trio.move_on_after(patience_s):
            await self._until(lambda: not self._running)
        while not (self._is_decided or self._has_room()):
            with trio.move_on_at(min((one.late_at for one in self._awaited()), default=math.inf)):
                await self._until(self._has_room)

    def _has_room(self) -> bool:
        return len(self._awaited()) < MAX_AT_ONCE and len(self._running) < MAX_IN_ALL

    def _awaited(self) -> list[Entry]:
        """List those that run and are not late."""
        now = trio.current_time()
        return [one for one in self._running if one.late_at > now]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (self._is_decided or condition()):
            self._news = trio.Event()
            await self._news.wait()

    async def _contend(self, entry: Entry, attempt: Attempt) -> None:
        try:
            with entry.scope:
                self._outcome = await attempt(entry)
        except (RemoteError, PaymentError, EngineLost) as error:
            self._fail(entry, error)
        except Exception as error:  # raised again by `run`, outside of the nursery's wrapping
            self._break(error)
        finally:
            self._running.remove(entry)
            self._news.set()

    def _fail(self, entry: Entry, error: NodeError) -> None:
        self.peers.remove(entry.peer)
        try:
            self.on_failure(entry.peer, error)
        except NodeError as final:
            self._break(final)

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or error
        self._leave(None)
