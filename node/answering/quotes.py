"""Asks candidates for quotes, all at once, and waits for enough of them: all, or those that came
soon after the first. What comes later is kept for the next request.

Orders nobody (router.py does).
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from p2p.peers import PeerAddress

from ..errors import RemoteError
from ..telemetry import Telemetry
from ..wire.quote import AskQuote
from .peers import Peers
from .router import Router

FIRST_S = 0.25  # how long the first quote is waited for
REST_S = 0.01  # how long the others are waited for once it came, or as long as it took
SILENT_S = 1.0  # what a node that stays silent is taken to need


@dataclass
class _Hearing:
    """One round: how many have not answered, and when the first quote came."""

    num_missing: int
    began_s: float
    first_s: float | None = None
    news: trio.Event = field(default_factory=trio.Event)

    def hear(self, *, is_quote: bool) -> None:
        self.num_missing -= 1
        if is_quote and self.first_s is None:
            self.first_s = trio.current_time()
        self.news.set()
        self.news = trio.Event()

    async def enough(self) -> None:
        """Wait until all have answered, or patience is over."""
        while self.num_missing and trio.current_time() < self._until:
            with trio.move_on_at(self._until):
                await self.news.wait()

    @property
    def _until(self) -> float:
        if self.first_s is None:
            return self.began_s + FIRST_S
        return self.first_s + max(REST_S, self.first_s - self.began_s)


class Quotes:
    """Gathers quotes into a router's beliefs."""

    def __init__(self, router: Router, peers: Peers, telemetry: Telemetry) -> None:
        self._router = router
        self._peers = peers
        self._telemetry = telemetry
        self._asking: dict[tuple[str, bytes], list[_Hearing]] = {}

    async def gather(
        self, candidates: Sequence[PeerAddress], wanted: AskQuote, nursery: trio.Nursery
    ) -> None:
        """Have quotes of the candidates asked for in `nursery`, and wait for enough of them unless
        the choice is settled.
        """
        now = trio.current_time()
        unasked = self._router.unasked(candidates, wanted.adapter, now)
        hearing = _Hearing(len(unasked), now)
        for peer in unasked:
            about = (peer.peer_id, wanted.adapter)
            if about not in self._asking:
                nursery.start_soon(self._ask, peer, wanted)
            self._asking.setdefault(about, []).append(hearing)
        if not self._router.is_settled(candidates, wanted.adapter, now):
            await hearing.enough()

    def tell(self, others: Sequence[PeerAddress], wanted: AskQuote, nursery: trio.Nursery) -> None:
        """Ask peers of whom nothing is known in `nursery`, and wait for nobody."""
        now = trio.current_time()
        for peer in others:
            about = (peer.peer_id, wanted.adapter)
            is_known = self._router.beliefs.find(*about, now) is not None
            if not is_known and about not in self._asking:
                self._asking[about] = []
                nursery.start_soon(self._ask, peer, wanted)

    async def _ask(self, peer: PeerAddress, wanted: AskQuote) -> None:
        began = trio.current_time()
        said = None
        took_s = SILENT_S
        try:
            said, took_s = await self._peers.quote(peer, wanted)
        except RemoteError:
            took_s = max(SILENT_S, trio.current_time() - began)
        except Exception as error:  # our own bug costs this quote, not the daemon
            self._telemetry.log(f"quotes: {''.join(traceback.format_exception(error))}")
        finally:
            waiting = self._asking.pop((peer.peer_id, wanted.adapter))
        self._router.beliefs.hear(
            peer.peer_id, wanted.adapter, said, took_s, now_s=trio.current_time()
        )
        for hearing in waiting:
            hearing.hear(is_quote=said is not None)
