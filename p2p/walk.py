"""Decides whom a look-up in the DHT asks next, and when it is over.

Pure: time comes in, peers are their bytes; opens no stream and does not know what is looked up.

    known ──▶ asked ──▶ answered     its answer names peers that are closer still
                   └──▶ failed       counts no longer among the closest, whoever names it

It is over when the CLOSEST peers that did not fail have all answered. So a peer that is gone costs
the place it takes among those under way, and nothing afterwards.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import sha256
from itertools import islice

CLOSEST = 20  # so many peers hold a record; the library's bucket has as many places
PARALLEL = 6  # questions under way
SLOW_S = 0.25  # a question that waits longer gives its place to another
MAX_UNDER_WAY = 16
MAX_ASKED = 100
MAX_CANDIDATES = 500
ACQUAINTED = 4
"""So many connected peers are asked first however far they are, those connected for longest:
whoever surrounds a key with peers of his own comes later than they did."""


class _State(Enum):
    KNOWN = auto()
    ASKED = auto()
    ANSWERED = auto()
    FAILED = auto()


@dataclass
class Walk:
    """One look-up around a key.

    `own` is this node; `connected` can be asked without a dial, connected for longest first.
    """

    key: bytes
    own: bytes
    connected: Sequence[bytes]
    _states: dict[bytes, _State] = field(default_factory=dict)
    _order: list[tuple[int, bytes]] = field(default_factory=list)  # (distance, peer), nearest first
    _asked_at: dict[bytes, float] = field(default_factory=dict)  # of those under way
    _num_slow: int = 0

    def __post_init__(self) -> None:
        self._is_connected = frozenset(self.connected)
        self._target = int.from_bytes(sha256(self.key).digest(), "big")

    def learn(self, peers: Iterable[bytes]) -> None:
        """Take peers that may be asked; no more than MAX_CANDIDATES in all."""
        for peer in peers:
            if len(self._states) >= MAX_CANDIDATES:
                return
            if peer != self.own and peer not in self._states:
                self._states[peer] = _State.KNOWN
                insort(self._order, (self._distance(peer), peer))

    def next_peer(self, now: float) -> bytes | None:
        """Return whom to ask now, or None until an answer comes or a question grows slow."""
        num_fast = sum(now - asked_at < SLOW_S for asked_at in self._asked_at.values())
        if num_fast >= PARALLEL or len(self._asked_at) >= MAX_UNDER_WAY:
            return None
        peer = self._choose()
        if peer is not None:
            self._states[peer] = _State.ASKED
            self._asked_at[peer] = now
        return peer

    def answered(self, peer: bytes, closer: Iterable[bytes]) -> None:
        """Note an answer and the peers that it named."""
        self._end(peer, _State.ANSWERED)
        self.learn(closer)

    def failed(self, peer: bytes, *, was_slow: bool = False) -> None:
        """Note that a peer gave no answer, in time or at all."""
        self._num_slow += was_slow
        self._end(peer, _State.FAILED)

    @property
    def is_over(self) -> bool:
        """Return whether nobody is left to ask and nobody's answer is awaited."""
        return not self._asked_at and self._choose() is None

    def is_grounded(self, now: float) -> bool:
        """Return whether nobody is awaited any more of those that are asked first: what others said
        before them may be all one liar's.
        """
        return not any(
            self._states[peer] is _State.KNOWN
            or now - self._asked_at.get(peer, now - SLOW_S) < SLOW_S
            for peer in self._acquainted()
        )

    def silent(self) -> list[bytes]:
        """List the peers that gave no answer, nearest first."""
        return [peer for _, peer in self._order if self._states[peer] is _State.FAILED]

    @property
    def is_mostly_slow(self) -> bool:
        """Return whether more were too slow than answered: then it is rather this machine, or its
        line, that is slow.
        """
        num_answered = sum(state is _State.ANSWERED for state in self._states.values())
        return self._num_slow > num_answered

    def closest(self) -> list[bytes]:
        """List the peers that answered among those closest to the key, nearest first."""
        return [peer for peer in self._nearest() if self._states[peer] is _State.ANSWERED]

    def holders(self) -> list[bytes]:
        """List who should hold a record: the closest, and those that were asked first."""
        others = (peer for peer in self._acquainted() if self._states[peer] is _State.ANSWERED)
        return list(dict.fromkeys((*self.closest(), *others)))

    def check(self) -> None:
        """Raise AssertionError if a peer stands twice, or in two states."""
        assert sorted(peer for _, peer in self._order) == sorted(self._states)
        assert self._order == sorted(self._order)
        under_way = {peer for peer, state in self._states.items() if state is _State.ASKED}
        assert under_way == set(self._asked_at)

    def _end(self, peer: bytes, state: _State) -> None:
        self._asked_at.pop(peer, None)
        self._states[peer] = state

    def _choose(self) -> bytes | None:
        num_asked = sum(state is not _State.KNOWN for state in self._states.values())
        if num_asked >= MAX_ASKED:
            return None
        fresh = [peer for peer in self._nearest() if self._states[peer] is _State.KNOWN]
        for peers in (self._acquainted(), fresh):
            for peer in peers:
                if self._states[peer] is _State.KNOWN and peer in self._is_connected:
                    return peer
        return fresh[0] if fresh else None

    def _acquainted(self) -> list[bytes]:
        """The connected peers that are asked however far they are."""
        living = (
            peer
            for peer in self.connected
            if self._states.get(peer, _State.FAILED) is not _State.FAILED
        )
        return list(islice(living, ACQUAINTED))

    def _nearest(self) -> list[bytes]:
        live = (peer for _, peer in self._order if self._states[peer] is not _State.FAILED)
        return list(islice(live, CLOSEST))

    def _distance(self, peer: bytes) -> int:
        return int.from_bytes(sha256(peer).digest(), "big") ^ self._target
