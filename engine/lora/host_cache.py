"""Packed adapters in host memory, within a byte budget; the files stay on disk.

Who leaves is decided as in GreedyDual-Size-Frequency (Cherkasova, 1998): the value of an entry is
uses * reload cost / size, above a clock that rises to the value of each entry that leaves, so that
yesterday's favourite leaves at last. O(log n) per use.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from .layout import PackedAdapter


@dataclass
class _Entry:
    packed: PackedAdapter
    reload_ms: float
    uses: int
    value: float


class HostCache:
    """adapter → PackedAdapter, at most `budget_bytes` in all (one larger adapter alone may exceed
    it).
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._clock = 0.0
        self.size_bytes = 0

    def find(self, adapter: bytes) -> PackedAdapter | None:
        """The packed adapter if it is here."""
        entry = self._entries.get(adapter)
        return None if entry is None else entry.packed

    def touch(self, adapter: bytes) -> None:
        """Count a use of an adapter that is here."""
        entry = self._entries[adapter]
        entry.uses += 1
        self._push(adapter, entry)

    def put(self, adapter: bytes, packed: PackedAdapter, reload_ms: float) -> list[bytes]:
        """Keep it; returns the adapters that had to leave.

        `reload_ms`: what reading it again would cost.
        """
        before = self._entries.get(adapter)
        self.remove(adapter)
        entry = _Entry(packed, reload_ms, before.uses if before else 1, 0.0)
        self._entries[adapter] = entry
        self.size_bytes += packed.size_bytes
        dropped = []
        while self.size_bytes > self._budget_bytes and len(self._entries) > 1:
            oldest = self._pop(adapter)
            self.remove(oldest)
            dropped.append(oldest)
        self._push(adapter, entry)
        return dropped

    def remove(self, adapter: bytes) -> None:
        """Let go of it, if it is here."""
        entry = self._entries.pop(adapter, None)
        self.size_bytes -= entry.packed.size_bytes if entry else 0

    def check(self) -> None:
        """The byte count is the sum of the entries, and each can be found to leave."""
        assert self.size_bytes == sum(entry.packed.size_bytes for entry in self._entries.values())
        assert {(entry.value, adapter) for adapter, entry in self._entries.items()} <= set(
            self._heap
        )

    def _push(self, adapter: bytes, entry: _Entry) -> None:
        entry.value = self._clock + entry.uses * entry.reload_ms / max(1, entry.packed.size_bytes)
        heapq.heappush(self._heap, (entry.value, adapter))
        if (
            len(self._heap) > 4 * len(self._entries) + 64
        ):  # outdated values are dropped as they are met, or here
            self._heap = [(each.value, key) for key, each in self._entries.items()]
            heapq.heapify(self._heap)

    def _pop(self, newest: bytes) -> bytes:
        """The entry of least value; `newest` has none yet and stays."""
        while True:
            value, adapter = heapq.heappop(self._heap)
            entry = self._entries.get(adapter)
            if adapter != newest and entry is not None and entry.value == value:
                self._clock = max(self._clock, value)
                return adapter
