"""Decides when a peer with which something failed is tried again: soon, then less often.

What failed once may have been a moment's trouble of a busy machine; what fails each time should
cost next to nothing. Pure; times are in seconds of any one clock.
"""

from __future__ import annotations

from libp2p.peer.id import ID

FIRST_PAUSE_S = 2.0
LAST_PAUSE_S = 60.0
MAX_PEERS = 256
FORGOTTEN_S = 4 * LAST_PAUSE_S


class Retries:
    """For each peer, the pause that is due after its next failure, and when the last one ends."""

    def __init__(self) -> None:
        self._pauses: dict[ID, tuple[float, float]] = {}

    def __contains__(self, peer: ID) -> bool:
        """Return whether something failed with this peer lately."""
        return peer in self._pauses

    def are_due(self, peer: ID, now: float) -> bool:
        """Return whether this peer may be tried now."""
        return peer not in self._pauses or self._pauses[peer][1] <= now

    def take(self, peer: ID, now: float) -> bool:
        """Return whether this peer may be tried now; then its next turn comes after a pause."""
        if not self.are_due(peer, now):
            return False
        self.note_failure(peer, now)
        return True

    def note_failure(self, peer: ID, now: float) -> None:
        """Leave this peer for a while: twice as long as after its last failure. Where too many
        failed, those who failed first are forgotten.
        """
        if len(self._pauses) >= MAX_PEERS:
            self._pauses = {
                one: held for one, held in self._pauses.items() if held[1] + FORGOTTEN_S > now
            }
            while len(self._pauses) >= MAX_PEERS:
                del self._pauses[next(iter(self._pauses))]
        pause_s, _ = self._pauses.pop(peer, (FIRST_PAUSE_S, now))
        self._pauses[peer] = (min(2 * pause_s, LAST_PAUSE_S), now + pause_s)

    def note_success(self, peer: ID) -> None:
        """It works: its next failure is a first one."""
        self._pauses.pop(peer, None)
