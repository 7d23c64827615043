"""Packed adapters in host memory, within a byte budget. Forgets the least recently used; the files stay on disk."""

from __future__ import annotations

from collections import OrderedDict

from .layout import PackedAdapter


class HostCache:
    """adapter → PackedAdapter, at most `budget_bytes` in all (one larger adapter alone may exceed it)."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[bytes, PackedAdapter] = OrderedDict()
        self.size_bytes = 0

    def find(self, adapter: bytes) -> PackedAdapter | None:
        """The packed adapter if it is here; counts as a use."""
        packed = self._entries.get(adapter)
        if packed is not None:
            self._entries.move_to_end(adapter)
        return packed

    def put(self, adapter: bytes, packed: PackedAdapter) -> list[bytes]:
        """Keep it; returns the adapters that had to leave."""
        self.remove(adapter)
        self._entries[adapter] = packed
        self.size_bytes += packed.size_bytes
        dropped = []
        while self.size_bytes > self._budget_bytes and len(self._entries) > 1:
            oldest = next(iter(self._entries))
            self.remove(oldest)
            dropped.append(oldest)
        return dropped

    def remove(self, adapter: bytes) -> None:
        """Let go of it, if it is here."""
        packed = self._entries.pop(adapter, None)
        self.size_bytes -= packed.size_bytes if packed else 0

    def check(self) -> None:
        """The byte count is the sum of the entries."""
        assert self.size_bytes == sum(packed.size_bytes for packed in self._entries.values())
