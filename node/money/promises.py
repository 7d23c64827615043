"""Keeps the aggregator's promises that this node has heard, until they are kept.

Bounded: a promise costs its receiver claimed money and its aggregator a signature. Judges nobody.
"""

from __future__ import annotations

from proofs.court import keeps
from proofs.promise import Promise
from proofs.state import EpochState

MAX_PROMISES = 65_536


class PromiseBook:
    """Promises by channel: of each channel the last one, which includes all before it."""

    def __init__(self) -> None:
        self._by_channel: dict[bytes, Promise] = {}

    def add(self, promise: Promise) -> None:
        """Keep a promise whose signature was checked."""
        known = self._by_channel.get(promise.channel_id)
        if known is not None and known.sequence >= promise.sequence:
            return
        if known is None and len(self._by_channel) >= MAX_PROMISES:
            self._by_channel.pop(next(iter(self._by_channel)))
        self._by_channel[promise.channel_id] = promise

    def overdue(self, posted_at: int) -> list[Promise]:
        """List those that a header posted then must keep."""
        return [one for one in self._by_channel.values() if posted_at > one.deadline]

    def forget(self, promise: Promise) -> None:
        """Forget a promise that is settled in another way."""
        if self._by_channel.get(promise.channel_id) == promise:
            del self._by_channel[promise.channel_id]

    def forget_kept(self, state: EpochState) -> None:
        """Forget those that this state keeps."""
        for channel_id, promise in list(self._by_channel.items()):
            index = state.find_channel(channel_id)
            if index is not None and keeps(state.channel(index).leaf, promise):
                del self._by_channel[channel_id]
