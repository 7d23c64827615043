"""Counts how many tokens each adapter has been served, so that the scheduler can be fair.

Decides only where a returning adapter starts; does not know who asked for the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

MAX_SERVED = 4096
"""Adapters whose share of tokens is remembered."""


class Shares:
    """Tokens served to each adapter; None is the bare base."""

    def __init__(self, running: Callable[[], Collection[bytes | None]]) -> None:
        """Start without counts; `running` returns the adapters that run now."""
        self._running = running
        self._served: dict[bytes | None, float] = {}

    def of(self, adapter: bytes | None) -> float:
        """Return how many tokens an adapter was served; 0 if it is not remembered."""
        return self._served.get(adapter, 0.0)

    def count(self, adapter: bytes | None, tokens: int) -> None:
        """Add to an adapter's share."""
        if adapter not in self._served:
            self._join(adapter)
        self._served[adapter] += tokens

    def _join(self, adapter: bytes | None) -> None:
        """Start a new or returning adapter at the smallest share of those that run.

        Starting at 0, it would be owed all tokens that the others got while it was away. Source:
        the lift of the Virtual Token Counter, Sheng et al. (arXiv:2401.00588).
        """
        running = self._running()
        if len(self._served) >= MAX_SERVED:
            self._served = {each: self._served.get(each, 0.0) for each in running}
        self._served[adapter] = min(
            (self._served[each] for each in running if each in self._served), default=0.0
        )
