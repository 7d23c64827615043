"""How many bytes a second may pass, all streams together.

Decides when; moves nothing.
"""

from __future__ import annotations

import trio

BURST_S = 0.25  # what may pass at once after a rest


class Rate:
    """A bound on bytes a second; 0 bounds nothing."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = -float("inf")  # when what passed so far is paid off

    def limit(self, bytes_per_s: int) -> None:
        """Bound what comes from now on by so many bytes a second; 0 bounds nothing."""
        self._bytes_per_s = bytes_per_s

    def reserve(self, num_bytes: int) -> float:
        """Let so many bytes pass, first come first served, and return when, in trio's time."""
        now = trio.current_time()
        if not self._bytes_per_s:
            return now
        self._free_at = max(self._free_at, now - BURST_S) + num_bytes / self._bytes_per_s
        return self._free_at

    async def take(self, num_bytes: int) -> None:
        """Wait until so many bytes may pass."""
        if self._bytes_per_s:
            await trio.sleep_until(self.reserve(num_bytes))
