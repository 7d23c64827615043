"""Packed adapters in host memory, within a byte budget; the files stay on disk.

Decides who leaves: whoever is worth least (worth.py), in O(log n) per use. Knows nothing of slots,
and reads no file.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from .layout import PackedAdapter
from .worth import Clock, Worth, reload_cost


@dataclass
class _Entry:
    packed: PackedAdapter
    worth: Worth


class HostCache:
    """adapter → PackedAdapter, at most `budget_bytes` in all (one larger adapter alone may exceed
    it).
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._clock = Clock()
        self.size_bytes = 0

    def find(self, adapter: bytes) -> PackedAdapter | None:
        """The packed adapter if it is here."""
        entry = self._entries.get(adapter)
        return None if entry is None else entry.packed

    def packed(self) -> Iterator[PackedAdapter]:
        """Yield every adapter that is here."""
        return (entry.packed for entry in self._entries.values())

    def touch(self, adapter: bytes) -> None:
        """Count a use of an adapter that is here."""
        worth = self._entries[adapter].worth
        self._clock.use(worth)
        self._push(adapter, worth)

    def put(self, adapter: bytes, packed: PackedAdapter, reload_ms: float) -> list[bytes]:
        """Keep it; returns the adapters that had to leave.

        `reload_ms`: what reading it again would cost.
        """
        before = self._entries.get(adapter)
        self.remove(adapter)
        worth = Worth(
            reload_cost(reload_ms, packed.size_bytes), uses=before.worth.uses if before else 1
        )
        self._entries[adapter] = _Entry(packed, worth)
        self.size_bytes += packed.size_bytes
        dropped = []
        while self.size_bytes > self._budget_bytes and len(self._entries) > 1:
            oldest = self._pop(adapter)
            self.remove(oldest)
            dropped.append(oldest)
        self._clock.renew(worth)  # only now: whoever left has moved the clock
        self._push(adapter, worth)
        return dropped

    def remove(self, adapter: bytes) -> None:
        """Let go of it, if it is here."""
        entry = self._entries.pop(adapter, None)
        self.size_bytes -= entry.packed.size_bytes if entry else 0

    def check(self) -> None:
        """The byte count is the sum of the entries, and each can be found to leave."""
        assert self.size_bytes == sum(entry.packed.size_bytes for entry in self._entries.values())
        assert {(entry.worth.value, adapter) for adapter, entry in self._entries.items()} <= set(
            self._heap
        )

    def _push(self, adapter: bytes, worth: Worth) -> None:
        heapq.heappush(self._heap, (worth.value, adapter))
        # outdated values are dropped as they are met, or here
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = [(each.worth.value, key) for key, each in self._entries.items()]
            heapq.heapify(self._heap)

    def _pop(self, newest: bytes) -> bytes:
        """Find who is worth least; `newest` is not valued yet and stays."""
        while True:
            value, adapter = heapq.heappop(self._heap)
            entry = self._entries.get(adapter)
            if adapter != newest and entry is not None and entry.worth.value == value:
                self._clock.leave(entry.worth)
                return adapter
