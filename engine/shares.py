"""How many tokens each adapter has had. Decides nothing; it does not know who asked for them."""

from __future__ import annotations

from collections.abc import Collection

MAX_SERVED = 4096
"""Adapters whose share of tokens is remembered."""


class Shares:
    """Tokens served, by adapter; None is the base alone."""

    def __init__(self) -> None:
        self._served: dict[bytes | None, float] = {}

    def of(self, adapter: bytes | None) -> float:
        """What an adapter has had; nothing if it is not remembered."""
        return self._served.get(adapter, 0.0)

    def has(self, adapter: bytes | None) -> bool:
        """Whether an adapter is remembered."""
        return adapter in self._served

    def join(self, adapter: bytes | None, running: Collection[bytes | None]) -> None:
        """Begin to count; one that comes back does not bring credit from when it was away, but
        begins with the least of those that run.
        """
        if len(self._served) >= MAX_SERVED:
            self._served = {each: self._served.get(each, 0.0) for each in running}
        self._served[adapter] = min(
            (self._served[each] for each in running if each in self._served), default=0.0
        )

    def count(self, adapter: bytes | None, tokens: int) -> None:
        """Add to the share of one that has joined."""
        self._served[adapter] += tokens
