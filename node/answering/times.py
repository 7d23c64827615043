"""How long each part of one answer took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Times:
    """How long each part of one answer took, in milliseconds."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({part: (time.perf_counter() - began) * 1000})

    def add(self, parts: Mapping[str, float]) -> None:
        """Add times measured elsewhere."""
        for part, took_ms in parts.items():
            self._parts[part] = self._parts.get(part, 0.0) + took_ms

    def mark(self, part: str) -> None:
        """Record, once, how long ago the request came."""
        self._parts.setdefault(part, (time.perf_counter() - self._started) * 1000)

    def longest(self, part: str, took_ms: float) -> None:
        """Record the longest of several times."""
        self._parts[part] = max(self._parts.get(part, 0.0), took_ms)

    def as_dict(self) -> dict[str, float]:
        """Return all parts so far."""
        return dict(self._parts)
