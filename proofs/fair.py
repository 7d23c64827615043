"""Chooses which accepted receipts the next epoch takes: fairly among payers, the oldest first.

    1. payers whose oldest promise runs out soon, the most urgent first
    2. then one receipt of each payer in turn, who was served longest ago first

A channel's receipts are chosen in its order, without gaps. Knows no clock and no chain.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .envelope import Place, VerifiedEnvelope


@dataclass(frozen=True)
class Pledge:
    """A receipt that was promised to be in a header posted by `deadline` (Unix seconds)."""

    envelope: VerifiedEnvelope
    deadline: int


class FairQueue:
    """Pledges that no epoch has taken yet: a line for each payer, in order of acceptance."""

    def __init__(self) -> None:
        self._lines: dict[bytes, dict[Place, Pledge]] = {}
        self._num_by_channel: Counter[bytes] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Pledge]:
        return (pledge for line in self._lines.values() for pledge in line.values())

    def num_of(self, payer: bytes) -> int:
        """Return how many pledges of this payer wait."""
        return len(self._lines.get(payer, {}))

    def num_of_channel(self, channel_id: bytes) -> int:
        """Return how many pledges of this channel wait."""
        return self._num_by_channel[channel_id]

    def line(self, payer: bytes) -> Iterable[Pledge]:
        """Return the pledges of a payer, in order of acceptance."""
        return self._lines.get(payer, {}).values()

    def has_channel(self, channel_id: bytes) -> bool:
        """Return whether a receipt of this channel waits."""
        return channel_id in self._num_by_channel

    def find(self, payer: bytes, place: Place) -> Pledge | None:
        """Return the pledge for a place, or None."""
        return self._lines.get(payer, {}).get(place)

    def append(self, pledge: Pledge) -> None:
        """Add a pledge at the end of its payer's line."""
        line = self._lines.setdefault(pledge.envelope.payer, {})
        assert pledge.envelope.place not in line, "a place is pledged once"
        line[pledge.envelope.place] = pledge
        self._num_by_channel[pledge.envelope.place[0]] += 1
        self._size += 1

    def replace(self, pledge: Pledge) -> None:
        """Put a pledge in the stead of the one for its place, which keeps its turn."""
        self._lines[pledge.envelope.payer][pledge.envelope.place] = pledge

    def remove(self, pledges: Iterable[Pledge]) -> None:
        """Take pledges out; their payers were served last."""
        for pledge in pledges:
            line = self._lines.pop(pledge.envelope.payer)
            del line[pledge.envelope.place]
            if line:
                self._lines[pledge.envelope.payer] = line
            channel = pledge.envelope.place[0]
            self._num_by_channel[channel] -= 1
            if not self._num_by_channel[channel]:
                del self._num_by_channel[channel]
            self._size -= 1

    def choose(
        self, limit: int, urgent_until: int, is_covered: Callable[[Pledge], bool]
    ) -> list[Pledge]:
        """Choose up to `limit` pledges among those that are covered, and whose channel's earlier
        ones are chosen too.
        """
        lines = {payer: _covered(line.values(), is_covered) for payer, line in self._lines.items()}
        heads = {payer: head for payer, line in lines.items() if (head := next(line, None))}
        chosen: list[Pledge] = []
        urgent = [
            (head.deadline, payer) for payer, head in heads.items() if head.deadline <= urgent_until
        ]
        heapq.heapify(urgent)
        while urgent and len(chosen) < limit:
            _, payer = heapq.heappop(urgent)
            chosen.append(heads.pop(payer))
            head = next(lines[payer], None)
            if head is None:
                continue
            heads[payer] = head
            if head.deadline <= urgent_until:
                heapq.heappush(urgent, (head.deadline, payer))
        turns = deque(payer for payer in lines if payer in heads)
        while turns and len(chosen) < limit:
            payer = turns.popleft()
            chosen.append(heads[payer])
            head = next(lines[payer], None)
            if head is not None:
                heads[payer] = head
                turns.append(payer)
        return chosen

    def check(self) -> None:
        """Raise AssertionError unless the counts are right and each line is in order."""
        pledges = list(self)
        assert len(pledges) == self._size
        assert Counter(pledge.envelope.place[0] for pledge in pledges) == self._num_by_channel
        assert all(self._lines.values()), "an empty line"
        last: dict[bytes, int] = {}
        for pledge in pledges:
            channel, sequence = pledge.envelope.place
            assert last.get(channel, sequence - 1) == sequence - 1, "a channel has gaps"
            last[channel] = sequence


def _covered(line: Iterable[Pledge], is_covered: Callable[[Pledge], bool]) -> Iterator[Pledge]:
    """Yield a line's pledges; once one is not covered, no more of its channel."""
    blocked = set[bytes]()
    for pledge in line:
        channel = pledge.envelope.place[0]
        if channel in blocked:
            continue
        if is_covered(pledge):
            yield pledge
        else:
            blocked.add(channel)
