"""The trust as it was when this simulator was first run, to compare with: an answer that differs
took no weight before a node was convicted, and an unknown name had the credit of an old one.
"""

from __future__ import annotations

import math

from node.verifying.trust import Trust

HALF_S = 86_400.0
MAX_DOUBLINGS = 8


class FormerTrust(Trust):
    """Convictions alone count, and one in so many answers is replayed whoever gave it."""

    def weight(self, operator: bytes, now: float) -> float:
        """Return how much a node counts, from 0 to 1."""
        weights = [1.0]
        for row in self._rows_of(operator):
            if row.convictions:
                half_s = HALF_S * math.exp2(min(row.convictions - 1, MAX_DOUBLINGS))
                weights.append(1.0 - math.exp2(-max(now - row.convicted_at, 0.0) / half_s))
        return min(weights)

    def one_in(self, operator: bytes, adapter: bytes, most: int) -> int:
        """Return one in how many answers is replayed."""
        return most
