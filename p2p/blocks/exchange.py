"""Decides which peer is asked for which block.

Moves no bytes, knows no clock and no network: time and answers come in, actions go out.

    missing ──ask──▶ in flight at one peer (in the endgame at two) ──answer──▶ verified and kept
       ▲                        │
       └──── absent · wrong · late · peer lost ────┘

- A peer answers in the order it was asked, so an answer needs no name.
- What is outstanding at a peer is what it delivers in two of its round trips: fast and far peers
get more, slow ones are never swamped. It is asked again when half of that has come.
- While others are still being connected to (`expect`), nobody gets more than its even share.
- When nothing is left to ask, a peer that would be sooner is asked again for what a slower one
still owes (once per block); one that has not answered yet counts as fast as the others are.
- One wrong block and the peer is dropped as hostile; no answer within the deadline and it is
dropped as stalled. What it owed is asked elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ..cid import Cid
from .limits import MAX_REQUEST_BLOCKS

# A window must cover the round trip, or a fast peer idles between requests: twice, since it is
# filled up when half is free. A larger one only means that more has to be asked again when the peer
# fails. A first answer's time holds the block's own, and the bounds forgive both kinds of error.
ROUND_TRIPS_OUTSTANDING = 2
MIN_OUTSTANDING_S = 0.05
MAX_OUTSTANDING_S = 1.0
# One whole block at least, so that the slowest peer always has something to do.
MIN_WINDOW_BYTES = 256 << 10
START_WINDOW_BYTES = 512 << 10
MAX_WINDOW_BYTES = 16 << 20
ANSWER_DEADLINE_S = 10.0
# Only a deadline's slope: a block of the largest size, 1 MiB, may take 16 s on top of the ten.
# Slower peers would hold a fetch back more than asking elsewhere costs.
SLOWEST_BYTES_PER_S = 64 << 10  # a peer slower than this counts as stalled
# Below 1, because both times are estimates: a peer that is barely faster would fetch a block twice
# for nothing.
ENDGAME_ADVANTAGE = (
    0.7  # ask again only a peer that would need less than this share of the other's time
)
# The share of the newest answer in the rate: four answers replace three quarters of
# the past, one slow disk read does not.
_RATE_SMOOTHING = 0.3
# Answers that were read in one gulp are no time apart, and would make a rate infinite.
_MIN_INTERVAL_S = 1e-4


@dataclass(frozen=True)
class BlockRef:
    """A block to fetch. It may hold at most `size_bytes`."""

    cid: Cid
    size_bytes: int


class Rejection(NamedTuple):
    """A wrong or missing answer: which peer owed it, for which block, and why it was refused."""

    peer_id: str
    cid: Cid
    reason: str


@dataclass(frozen=True)
class Ask:
    """Send one request for these blocks, in this order."""

    peer_id: str
    cids: tuple[Cid, ...]


@dataclass(frozen=True)
class Keep:
    """This block is verified: store it."""

    peer_id: str
    cid: Cid
    data: bytes


@dataclass(frozen=True)
class Drop:
    """Talk to this peer no longer. A hostile one is to be banned."""

    peer_id: str
    reason: str
    is_hostile: bool


Action = Ask | Keep | Drop


@dataclass
class _Debt:
    """A block that a peer owes."""

    cid: Cid
    asked_at: float


@dataclass
class _Peer:
    owed: deque[_Debt] = field(default_factory=deque)
    owed_bytes: int = 0
    absent: set[Cid] = field(default_factory=set)
    window_bytes: int = START_WINDOW_BYTES
    bytes_per_s: float = 0.0
    round_trip_s: float = MAX_OUTSTANDING_S
    last_answer_at: float = 0.0
    was_excused: bool = False
    num_asked: int = 0


class Exchange:
    """The plan of one fetch.

    - Feed it `add_peer`, `answer`, `lose_peer` and, every fraction of a second, `check_deadlines`;
      do what the returned actions say, in order.
    - It is over when `is_done`, and hopeless when `is_stuck` (no peer owes anything and none has
      what is missing).
    """

    def __init__(
        self, wanted: Iterable[BlockRef], verify: Callable[[Cid, bytes], bool] = Cid.matches
    ) -> None:
        self._sizes = {ref.cid: ref.size_bytes for ref in wanted}
        self._unasked: deque[Cid] = deque(self._sizes)
        self._holders: dict[Cid, set[str]] = {
            cid: set() for cid in self._sizes
        }  # missing blocks and who owes them
        self._peers: dict[str, _Peer] = {}
        self._verify = verify
        self._num_expected = 0
        self.rejected: list[Rejection] = []

    @property
    def is_done(self) -> bool:
        """Return whether every block is verified."""
        return not self._holders

    @property
    def is_stuck(self) -> bool:
        """Return whether no peer here can bring the fetch any further."""
        return not self.is_done and not any(peer.owed for peer in self._peers.values())

    @property
    def missing(self) -> tuple[Cid, ...]:
        """Return the CIDs of the blocks that are not verified yet."""
        return tuple(self._holders)

    def owes(self, peer_id: str) -> bool:
        """Return whether this peer has answers to give."""
        return peer_id in self._peers and bool(self._peers[peer_id].owed)

    def expect(self, num_peers: int, now: float) -> list[Action]:
        """Leave their share to so many peers that may still join; 0 leaves nothing to anybody."""
        self._num_expected = num_peers
        return self._ask_all(now)

    def add_peer(self, peer_id: str, now: float) -> list[Action]:
        """Add a peer that is ready to be asked. One that comes back starts afresh."""
        assert peer_id not in self._peers, f"{peer_id} is in this fetch already"
        self._peers[peer_id] = _Peer(last_answer_at=now)
        return self._ask_all(now)

    def lose_peer(self, peer_id: str, now: float) -> list[Action]:
        """Remove a peer that is gone and ask elsewhere for what it owed. Harmless for one that was
        dropped.
        """
        self._release(peer_id)
        return self._ask_all(now)

    def answer(self, peer_id: str, data: bytes, now: float) -> list[Action]:
        """Take a peer's next answer; empty means that the peer does not have the block.

        Answers of a dropped peer are ignored.
        """
        peer = self._peers.get(peer_id)
        if peer is None:
            return []
        if not peer.owed:
            return self._drop(peer_id, "answered without being asked", now)
        debt = peer.owed.popleft()
        peer.owed_bytes -= self._sizes[debt.cid]
        self._measure(peer, debt, len(data), now)
        holders = self._holders.get(debt.cid)
        if holders is not None:
            holders.discard(peer_id)
        if not data:
            return self._note_absent(peer, debt.cid, now)
        if not self._verify(debt.cid, data):
            self.rejected.append(Rejection(peer_id, debt.cid, "the bytes do not hash to the CID"))
            self._give_back(debt.cid)
            return self._drop(peer_id, f"sent wrong bytes for {debt.cid}", now)
        if len(data) > self._sizes[debt.cid]:
            self.rejected.append(
                Rejection(
                    peer_id,
                    debt.cid,
                    f"{len(data)} bytes are more than the {self._sizes[debt.cid]} allowed",
                )
            )
            return self._note_absent(peer, debt.cid, now)
        kept: list[Action] = []
        if holders is not None:
            del self._holders[debt.cid]
            kept.append(Keep(peer_id, debt.cid, data))
        return kept + self._ask_all(now)

    def excuse(self, peer_id: str, until: float) -> None:
        """Nothing is taken from this peer until then: it is our doing, and tells nothing of it."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.last_answer_at = until
            peer.was_excused = True

    def check_deadlines(self, now: float) -> list[Action]:
        """Drop every peer that has owed an answer for too long."""
        late = [
            peer_id
            for peer_id, peer in self._peers.items()
            if peer.owed and now > self._due_at(peer)
        ]
        actions: list[Action] = []
        for peer_id in late:
            owed = self._peers[peer_id].owed[0].cid
            self.rejected.append(Rejection(peer_id, owed, "no answer before the deadline"))
            actions += self._drop(peer_id, "stalled", now, is_hostile=False)
        return actions + self._ask_all(now)

    def reject(self, peer_id: str, reason: str, now: float) -> list[Action]:
        """Drop a peer as hostile that broke the protocol below the blocks (an oversized frame)."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.owed:
            self.rejected.append(Rejection(peer_id, peer.owed[0].cid, reason))
        return self._drop(peer_id, reason, now)

    def check(self) -> None:
        """Assert the invariants; for tests, and for whoever doubts."""
        unasked = set(self._unasked)
        assert len(unasked) == len(self._unasked), "a block stands twice among the unasked"
        for cid, holders in self._holders.items():
            assert (cid in unasked) == (not holders), f"{cid} is lost or both asked and unasked"
            assert len(holders) <= 2, f"{cid} is asked more than twice"
        for peer_id, peer in self._peers.items():
            owed = {debt.cid for debt in peer.owed}
            assert len(owed) == len(peer.owed), f"{peer_id} is asked twice for one block"
            assert all(
                (peer_id in holders) == (cid in owed) for cid, holders in self._holders.items()
            )
            assert peer.owed_bytes == sum(self._sizes[debt.cid] for debt in peer.owed)
            assert MIN_WINDOW_BYTES <= peer.window_bytes <= MAX_WINDOW_BYTES

    # --- helpers ---

    def _due_at(self, peer: _Peer) -> float:
        debt = peer.owed[0]
        return (
            max(debt.asked_at, peer.last_answer_at)
            + ANSWER_DEADLINE_S
            + self._sizes[debt.cid] / SLOWEST_BYTES_PER_S
        )

    def _measure(self, peer: _Peer, debt: _Debt, num_bytes: int, now: float) -> None:
        # A peer answers in order, so the time of its answer to one block begins when the one before
        # it was done.
        if peer.was_excused:
            peer.was_excused = False
            return
        was_idle = debt.asked_at >= peer.last_answer_at
        interval = max(now - max(debt.asked_at, peer.last_answer_at), _MIN_INTERVAL_S)
        peer.last_answer_at = now
        if was_idle:
            peer.round_trip_s = min(peer.round_trip_s, interval)
        rate = num_bytes / interval
        peer.bytes_per_s = (
            rate
            if not peer.bytes_per_s
            else peer.bytes_per_s + _RATE_SMOOTHING * (rate - peer.bytes_per_s)
        )
        outstanding_s = max(ROUND_TRIPS_OUTSTANDING * peer.round_trip_s, MIN_OUTSTANDING_S)
        peer.window_bytes = int(
            min(max(peer.bytes_per_s * outstanding_s, MIN_WINDOW_BYTES), MAX_WINDOW_BYTES)
        )

    def _note_absent(self, peer: _Peer, cid: Cid, now: float) -> list[Action]:
        peer.absent.add(cid)
        self._give_back(cid)
        return self._ask_all(now)

    def _give_back(self, cid: Cid) -> None:
        """Make a block askable again unless somebody else still owes it."""
        if cid in self._holders and not self._holders[cid] and cid not in self._unasked:
            # To the front: it is the oldest block still missing.
            self._unasked.appendleft(cid)

    def _release(self, peer_id: str) -> None:
        peer = self._peers.pop(peer_id, None)
        for debt in peer.owed if peer is not None else ():
            if debt.cid in self._holders:
                self._holders[debt.cid].discard(peer_id)
                self._give_back(debt.cid)

    def _drop(
        self, peer_id: str, reason: str, now: float, *, is_hostile: bool = True
    ) -> list[Action]:
        self._release(peer_id)
        return [Drop(peer_id, reason, is_hostile), *self._ask_all(now)]

    def _ask_all(self, now: float) -> list[Action]:
        """Fill every peer's window, the fastest peer first."""
        order = sorted(self._peers, key=lambda peer_id: -self._peers[peer_id].bytes_per_s)
        return [action for peer_id in order for action in self._ask(peer_id, now)]

    def _ask(self, peer_id: str, now: float) -> list[Action]:
        peer = self._peers[peer_id]
        asked: list[Cid] = []
        if peer.owed and 2 * peer.owed_bytes > peer.window_bytes:
            return []  # few large requests instead of one for each answer
        while (
            len(asked) < MAX_REQUEST_BLOCKS
            and (cid := self._choose(peer_id, peer, now)) is not None
        ):
            peer.num_asked += 1
            peer.owed.append(_Debt(cid, now))
            peer.owed_bytes += self._sizes[cid]
            self._holders[cid].add(peer_id)
            asked.append(cid)
        return [Ask(peer_id, tuple(asked))] if asked else []

    def _choose(self, peer_id: str, peer: _Peer, now: float) -> Cid | None:
        if peer.owed and peer.owed_bytes >= peer.window_bytes:
            return None
        if self._num_expected and peer.num_asked >= self._share():
            return None
        for index, cid in enumerate(self._unasked):
            if cid not in peer.absent:
                del self._unasked[index]
                return cid
        return None if self._unasked else self._choose_again(peer_id, peer, now)

    def _share(self) -> int:
        """How many blocks each peer would get if all that are expected came."""
        return -(-len(self._sizes) // (len(self._peers) + self._num_expected))

    def _choose_again(self, peer_id: str, peer: _Peer, now: float) -> Cid | None:
        """Return a block that another peer owes and this one would bring sooner (the endgame), or
        None.
        """
        bytes_per_s = peer.bytes_per_s or self._typical_rate()
        if not bytes_per_s:
            return None
        for cid, holders in self._holders.items():
            if len(holders) != 1 or peer_id in holders or cid in peer.absent:
                continue
            ours = (peer.owed_bytes + self._sizes[cid]) / bytes_per_s
            if ours < ENDGAME_ADVANTAGE * self._time_left(cid, next(iter(holders)), now):
                return cid
        return None

    def _typical_rate(self) -> float:
        rates = sorted(peer.bytes_per_s for peer in self._peers.values() if peer.bytes_per_s)
        return rates[len(rates) // 2] if rates else 0.0

    def _time_left(self, cid: Cid, holder: str, now: float) -> float:
        """Return the seconds a peer will still need for a block it owes, by its rate, or by its
        silence when that is worse.
        """
        peer = self._peers[holder]
        ahead = 0
        for debt in peer.owed:
            ahead += self._sizes[debt.cid]
            if debt.cid == cid:
                break
        # A peer that has stopped keeps its good rate; its silence is what tells.
        silence = now - max(peer.last_answer_at, peer.owed[0].asked_at)
        return max(ahead / peer.bytes_per_s if peer.bytes_per_s else 0.0, silence)
