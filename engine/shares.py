"""How many tokens each adapter has had. Decides nothing; it does not know who asked for them."""

from __future__ import annotations

from collections.abc import Callable, Collection

MAX_SERVED = 4096
"""Adapters whose share of tokens is remembered."""


class Shares:
    """Tokens served, by adapter; None is the base alone."""

    def __init__(self, running: Callable[[], Collection[bytes | None]]) -> None:
        """`running` gives the adapters that run now."""
        self._running = running
        self._served: dict[bytes | None, float] = {}

    def of(self, adapter: bytes | None) -> float:
        """What an adapter has had; nothing if it is not remembered."""
        return self._served.get(adapter, 0.0)

    def count(self, adapter: bytes | None, tokens: int) -> None:
        """Add to an adapter's share."""
        if adapter not in self._served:
            self._join(adapter)
        self._served[adapter] += tokens

    def _join(self, adapter: bytes | None) -> None:
        """One that comes back does not bring credit from when it was away, but begins with the
        least of those that run.
        """
        running = self._running()
        if len(self._served) >= MAX_SERVED:
            self._served = {each: self._served.get(each, 0.0) for each in running}
        self._served[adapter] = min(
            (self._served[each] for each in running if each in self._served), default=0.0
        )
