"""Keeps the aggregator's promises that this node has heard, and their receipts, until they are
kept.

Bounded: a promise costs its receiver claimed money and its aggregator a signature. Judges nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proofs.court import keeps
from proofs.envelope import decode_envelope
from proofs.promise import Promise, Reminder
from proofs.receipt import NO_SIGNATURE, SignedReceipt, decode_body, decode_receipt
from proofs.state import EpochState

MAX_PROMISES = 65_536  # of about a kilobyte each


@dataclass(frozen=True)
class Heard:
    """A promise whose signature was checked, and the envelope of the receipt that it is for."""

    promise: Promise
    envelope: bytes

    @property
    def adapter(self) -> bytes:
        """Return whose manifest is needed to keep the promise."""
        return decode_body(decode_receipt(decode_envelope(self.envelope).receipt).body).adapter

    def remind(self, manifest: bytes) -> Reminder:
        """Return all that is needed to keep it; `manifest` is empty for the bare base."""
        envelope = decode_envelope(self.envelope)
        signed = decode_receipt(envelope.receipt)
        alone = SignedReceipt(signed.body, signed.node_signature, NO_SIGNATURE)
        return Reminder(self.promise, envelope.channel, alone, manifest)


class PromiseBook:
    """Promises by channel and place: each is asked for when a header has the receipt before."""

    def __init__(self) -> None:
        self._by_channel: dict[bytes, dict[int, Heard]] = {}
        self._size = 0

    def __len__(self) -> int:
        """Return how many are not settled yet, as far as is known."""
        return self._size

    def add(self, promise: Promise, envelope: bytes) -> None:
        """Keep a promise whose signature was checked."""
        if self._size >= MAX_PROMISES:
            self._drop(next(iter(self._by_channel)))
        places = self._by_channel.setdefault(promise.channel_id, {})
        self._size += promise.sequence not in places
        places[promise.sequence] = Heard(promise, envelope)

    def overdue(self, now: int) -> list[Promise]:
        """List those whose deadline was over then."""
        return [
            heard.promise
            for places in self._by_channel.values()
            for heard in places.values()
            if now > heard.promise.deadline
        ]

    def due(self, now: int, state: EpochState) -> Iterator[Heard]:
        """Give those whose deadline is over, and whose receipt is the next one of its channel."""
        for channel_id, places in self._by_channel.items():
            tip = state.find_tip(channel_id)
            heard = places.get(tip.sequence + 1 if tip else 1)
            if heard is not None and now > heard.promise.deadline:
                yield heard

    def forget(self, promise: Promise) -> None:
        """Forget a promise that is settled in another way."""
        places = self._by_channel.get(promise.channel_id, {})
        heard = places.get(promise.sequence)
        if heard is not None and heard.promise == promise:
            self._remove(promise.channel_id, [promise.sequence])

    def forget_kept(self, state: EpochState) -> None:
        """Forget those that this state keeps."""
        for channel_id, places in list(self._by_channel.items()):
            index = state.find_channel(channel_id)
            if index is None:
                continue
            leaf = state.channel(index).leaf
            kept = [number for number, one in places.items() if keeps(leaf, one.promise)]
            self._remove(channel_id, kept)

    def _remove(self, channel_id: bytes, sequences: list[int]) -> None:
        places = self._by_channel[channel_id]
        for sequence in sequences:
            del places[sequence]
        self._size -= len(sequences)
        if not places:
            del self._by_channel[channel_id]

    def _drop(self, channel_id: bytes) -> None:
        self._size -= len(self._by_channel.pop(channel_id))
