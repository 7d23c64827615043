"""Knows which peers there are around this node in the DHT, and walks among them.

walk.py decides who is asked, queries.py asks, this remembers who answered: the routing table, and
who is silent or gone. Does not know what is looked up.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from math import inf

import trio
from libp2p.peer.id import ID

from .errors import P2pError, PeerTimeout, PeerUnreachable, ProtocolRefused
from .hardening import HardenedHost
from .kademlia import BoundedKademlia
from .peers import Silences
from .queries import Answer, Named, Queries
from .walk import CLOSEST, PARALLEL, SLOW_S, Walk

TELL_TIMEOUT_S = 3.0  # of what nobody waits for: what is told, who is around
CLOSEST_MEMORY_S = 300.0
MAX_REMEMBERED_KEYS = 1024
WALK_DEADLINE_S = 10.0
REFRESH_INTERVAL_S = 300.0
FIRST_REFRESH_S = 5.0
PROBE_INTERVAL_S = 10.0
STRANGER_S = 600.0
MAX_DOUBTED = 256
MAX_PROBED = 4  # peers of the routing table without a connection, looked at in one round

logger = logging.getLogger(__name__)
Ask = Callable[[ID, float], Awaitable[Answer]]
"""Puts the question to a peer, within so many seconds."""
Take = Callable[[ID, Answer], bool]
"""Takes an answer; says whether the look-up may end."""


class Routing:
    """The peers of the DHT as this node sees them.

    - A peer that was not to be reached is not asked or named within GONE_S (peers.py), and nothing
    of it is kept.
    - Peers come into the routing table by a connection or by their own answer, never by what others
    say.
    """

    def __init__(self, host: HardenedHost, kademlia: BoundedKademlia, queries: Queries) -> None:
        self._host = host
        self._kademlia = kademlia
        self._queries = queries
        self._own = host.get_id()
        self._silences = Silences()  # by trio.current_time()
        self._doubted: set[ID] = set()  # who was only slow, and is to be asked once more
        self._strangers: dict[ID, float] = {}  # since when
        self._closest: dict[bytes, tuple[tuple[bytes, ...], float]] = {}

    # --- who is there ---

    async def add_server(self, peer: ID) -> None:
        """Put a connected peer that serves the DHT into the routing table."""
        if not self._is_silent(peer.to_bytes()):
            await self._kademlia.add_peer(peer, skip_server_mode_check=True)

    def note_alive(self, peer: ID) -> None:
        """Count a peer among the living again."""
        self._silences.lift(peer.to_bytes())
        self._doubted.discard(peer)

    def is_gone(self, peer: bytes) -> bool:
        """Return whether a peer was not to be reached lately."""
        return self._silences.is_gone(peer, trio.current_time())

    def _is_silent(self, peer: bytes) -> bool:
        return self._silences.is_silent(peer, trio.current_time())

    def note_silent(self, peer: ID, *, is_sure: bool) -> None:
        """Leave a peer out for a while; one that is gone is forgotten.

        One that was only slow may have been busy, or this machine: where it is and what it has,
        which it would not say again for minutes, is kept until it is asked once more.
        """
        if not self._silences.note(peer.to_bytes(), trio.current_time(), is_sure=is_sure):
            return
        self._kademlia.routing_table.remove_peer(peer)
        if not is_sure and peer not in self._doubted and len(self._doubted) < MAX_DOUBTED:
            self._doubted.add(peer)
            return
        self._doubted.discard(peer)
        self._kademlia.provider_store.forget(peer)
        self._forget_place(peer)

    def _forget_place(self, peer: ID) -> None:
        store = self._host.peerstore
        if store.has_peer(peer) and peer not in self._host.get_connected_peers():
            store.clear_peerdata(peer)

    # --- the walk ---

    async def keep_routing(self) -> None:
        """Keep the routing table true, until cancelled: look around now and then, and see whether
        those that are not connected are still there.
        """
        pause_s = FIRST_REFRESH_S
        while True:
            await self.refresh()
            with trio.move_on_after(pause_s):
                while True:
                    await trio.sleep(PROBE_INTERVAL_S)
                    await self._probe()
                    self._forget_strangers()
            pause_s = min(2 * pause_s, REFRESH_INTERVAL_S)

    async def refresh(self) -> None:
        """Learn who is close to this node, and who is elsewhere."""
        await self.find_closest(self._own.to_bytes())
        await self.find_closest(secrets.token_bytes(32))

    async def _probe(self) -> None:
        """Ask some peers of the routing table that are not connected whether they are there."""
        connected = self._host.get_connected_peers()
        table = self._kademlia.routing_table.get_peer_ids()
        absent = [peer.to_bytes() for peer in table if peer not in connected]
        doubted = [peer.to_bytes() for peer in self._doubted if not self.is_gone(peer.to_bytes())]
        key = self._own.to_bytes()

        async def probe(peer: bytes) -> None:
            question = self._queries.find_node(ID(peer), key, TELL_TIMEOUT_S)
            if await self.tries(ID(peer), question):
                self.note_alive(ID(peer))

        chosen = secrets.SystemRandom().sample(absent, min(len(absent), MAX_PROBED))
        await at_once(probe, [*chosen, *doubted[:MAX_PROBED]])

    def _forget_strangers(self) -> None:
        """Drop what is noted of peers that were neither connected nor in the table for long."""
        now = trio.current_time()
        kept = {*self._host.get_connected_peers(), *self._kademlia.routing_table.get_peer_ids()}
        strangers = set(self._host.peerstore.peer_ids()) - kept - {self._own}
        self._strangers = {peer: self._strangers.get(peer, now) for peer in strangers}
        for peer, since in self._strangers.items():
            if now - since >= STRANGER_S:
                self._forget_place(peer)

    async def find_closest(self, key: bytes) -> list[bytes]:
        """List the living peers closest to a key of at most 50 bytes; a few minutes old at most."""

        async def ask(peer: ID, timeout_s: float) -> Answer:
            return await self._queries.find_node(peer, key, timeout_s)

        peers, until = self._closest.get(key, ((), 0.0))
        if until <= trio.current_time() or any(map(self._is_silent, peers)):
            walk = await self.look_up(
                key, ask, lambda peer, answer: False, TELL_TIMEOUT_S, WALK_DEADLINE_S
            )
            return walk.holders()
        return list(peers)

    async def look_up(
        self, key: bytes, ask: Ask, take: Take, timeout_s: float, deadline_s: float = inf
    ) -> Walk:
        """Walk towards a key, asking on the way, until `take` says so or nobody is left, or the
        deadline has passed: those that answered until then are better than nobody.

        Each peer is waited for `timeout_s`.
        """
        walk = self._new_walk(key)
        changed = trio.Event()
        is_enough = False
        places: dict[bytes, Named] = {}  # as others say; whoever says it first, says it alone

        async def visit(peer: bytes) -> None:
            nonlocal is_enough
            is_hearsay = peer in places and self._queries.place(places[peer])
            try:
                answer = await ask(ID(peer), timeout_s)
            except P2pError as error:
                walk.failed(peer, was_slow=isinstance(error, PeerTimeout))
                self._note_silence(ID(peer), error, is_hearsay=is_hearsay)
            else:
                closer = await self._meet(ID(peer), answer)
                for named in closer:
                    places.setdefault(named.peer, named)
                walk.answered(peer, [named.peer for named in closer])
                is_enough = take(ID(peer), answer) or is_enough
            changed.set()

        with trio.move_on_after(deadline_s) as scope:
            async with trio.open_nursery() as nursery:
                while not (walk.is_over or (is_enough and walk.is_grounded(trio.current_time()))):
                    while (
                        not is_enough and (peer := walk.next_peer(trio.current_time())) is not None
                    ):
                        nursery.start_soon(visit, peer)
                    with trio.move_on_after(SLOW_S):
                        await changed.wait()
                    changed = trio.Event()
                nursery.cancel_scope.cancel()
        is_whole = not (is_enough or scope.cancelled_caught or walk.is_mostly_slow)
        if is_whole and walk.holders():
            self._remember_closest(key, walk.holders())
        return walk

    async def search(
        self, key: bytes, ask: Ask, take: Take, has_found: Callable[[], bool], timeout_s: float
    ) -> None:
        """Look up what somebody waits for; the caller sets the deadline.

        Where nobody had anything to tell and most were slow, all is done again, twice as patiently:
        it may have been this machine that was busy.
        """
        while True:
            walk = await self.look_up(key, ask, take, timeout_s)
            if not has_found():
                await self.ask_slow(walk, ask, take)
            if has_found() or not walk.is_mostly_slow:
                return
            timeout_s *= 2

    async def ask_slow(self, walk: Walk, ask: Ask, take: Take) -> None:
        """Give those that were slow once a second chance: nobody else had anything to tell."""

        async def ask_again(peer: bytes) -> None:
            try:
                take(ID(peer), await ask(ID(peer), TELL_TIMEOUT_S))
                self._silences.lift(peer)
            except P2pError as error:
                self._note_silence(ID(peer), error)

        await at_once(ask_again, [peer for peer in walk.silent() if not self.is_gone(peer)])

    def _new_walk(self, key: bytes) -> Walk:
        table = self._kademlia.routing_table.find_local_closest_peers(key, CLOSEST)
        connected = [
            peer.to_bytes()
            for peer in self._host.get_connected_peers()
            if self._host.may_serve_dht(peer)
        ]
        remembered, _ = self._closest.get(key, ((), 0.0))
        known = [*connected, *remembered, *(peer.to_bytes() for peer in table)]
        walk = Walk(key, self._own.to_bytes(), connected)
        # where all are silent, this node may have been the one that was away
        walk.learn([peer for peer in known if not self._is_silent(peer)] or known)
        return walk

    async def _meet(self, peer: ID, answer: Answer) -> list[Named]:
        """Note that a peer is there; return those it named that may be asked."""
        self.note_alive(peer)
        await self._kademlia.add_peer(peer, skip_server_mode_check=True)
        return [named for named in answer.closer if not self._is_silent(named.peer)]

    async def tries(self, peer: ID, question: Awaitable[object]) -> bool:
        """Return whether a question was answered, and note a peer that is gone."""
        try:
            await question
        except P2pError as error:
            self._note_silence(peer, error)
            return False
        return True

    def _note_silence(self, peer: ID, error: P2pError, *, is_hearsay: bool = False) -> None:
        """Note why a peer gave no answer.

        Where only others said where it is, they may have lied: then it is no more than slow.
        """
        if is_hearsay:
            self._silences.note(peer.to_bytes(), trio.current_time(), is_sure=False, counts=False)
            self._forget_place(peer)
        elif isinstance(error, ProtocolRefused):
            self._kademlia.routing_table.remove_peer(peer)
        elif isinstance(error, PeerUnreachable):
            self.note_silent(peer, is_sure=True)
        elif isinstance(error, PeerTimeout):
            self.note_silent(peer, is_sure=False)
        logger.debug("%s: %s", peer, error)

    def _remember_closest(self, key: bytes, peers: Sequence[bytes]) -> None:
        if len(self._closest) >= MAX_REMEMBERED_KEYS:
            self._closest.pop(next(iter(self._closest)))
        self._closest.pop(key, None)
        self._closest[key] = (tuple(peers), trio.current_time() + CLOSEST_MEMORY_S)


async def at_once(act: Callable[[bytes], Awaitable[None]], peers: Sequence[bytes]) -> None:
    """Do something with each peer, PARALLEL at a time."""
    limiter = trio.CapacityLimiter(PARALLEL)

    async def act_in_turn(peer: bytes) -> None:
        async with limiter:
            await act(peer)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(act_in_turn, peer)
