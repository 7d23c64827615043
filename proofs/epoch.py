"""Defines the header of an epoch, which the aggregator posts, and the leaves of its trees.

Twin of contracts/src/types/Header.sol and Leaves.sol. Knows no batch and posts nothing.

    channels root   a leaf for each channel: how far it is, what it owes to whom
    payout root     a leaf for each account: what it was awarded, and by which channels (entries)

Both trees have the sum `payout_total`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .digest import keccak, word
from .sumtree import SumNode, leaf

NO_HEADER = bytes(32)  # what the first header names as previous


@dataclass(frozen=True)
class EpochHeader:
    """The commitments of an epoch. Totals are cumulative: they count every epoch so far."""

    epoch: int  # from 1
    previous: bytes  # hash of the header before, 32 zero bytes in the first
    receipts_root: bytes  # of the RFC 9162 log of all receipts (merkle.py)
    num_receipts: int  # size of that log
    channels_root: bytes  # commitment of the tree of channels
    payout_root: bytes  # commitment of the tree of accounts
    payout_total: int  # the sum of both
    batch_digest: bytes  # sha-256 of the published batch, and so its CID

    @property
    def encoded(self) -> bytes:
        """Return the ABI encoding: eight words in the order above."""
        return b"".join(word(getattr(self, name)) for name in _FIELDS)

    @property
    def hash(self) -> bytes:
        """Return keccak256 of the ABI encoding: the contract stores it, and the next header names
        it.
        """
        return keccak(self.encoded)


@dataclass(frozen=True)
class ChannelLeaf:
    """Where a channel stands: its last receipt, and what it owes to whom after it."""

    channel_id: bytes
    sequence: int
    cumulative: int
    payouts: bytes  # commitment of the channel's payouts, as that receipt names it
    body: bytes  # sha-256 of that receipt's body
    evidence: bytes  # keccak256 of the node's signature under it

    @property
    def encoded(self) -> bytes:
        """Return the leaf's content, 152 bytes."""
        place = self.channel_id + self.sequence.to_bytes(8, "big")
        return (
            place + self.cumulative.to_bytes(16, "big") + self.payouts + self.body + self.evidence
        )

    @property
    def node(self) -> SumNode:
        """Return the leaf in the tree of channels."""
        return leaf(self.encoded, self.cumulative)


@dataclass(frozen=True)
class AccountLeaf:
    """What an account was awarded in all, and the commitment of the entries that add up to it."""

    account: bytes
    amount: int
    entries: bytes

    @property
    def encoded(self) -> bytes:
        """Return the leaf's content, 68 bytes."""
        return self.account + self.amount.to_bytes(16, "big") + self.entries

    @property
    def node(self) -> SumNode:
        """Return the leaf in the tree of accounts."""
        return leaf(self.encoded, self.amount)


@dataclass(frozen=True)
class EntryLeaf:
    """What one channel awarded to one account, and where that stands.

    `channel_index` is the channel's in the tree of channels, `place` the account's in the channel's
    payouts.
    """

    channel_id: bytes
    amount: int
    channel_index: int
    place: int

    @property
    def encoded(self) -> bytes:
        """Return the leaf's content, 64 bytes."""
        where = self.channel_index.to_bytes(8, "big") + self.place.to_bytes(8, "big")
        return self.channel_id + self.amount.to_bytes(16, "big") + where

    @property
    def node(self) -> SumNode:
        """Return the leaf in the account's tree of entries."""
        return leaf(self.encoded, self.amount)


def decode_header(encoded: bytes) -> EpochHeader:
    """Decode a header from its own encoding."""
    assert len(encoded) == 32 * len(_FIELDS), "a header has eight words"
    words = [encoded[start : start + 32] for start in range(0, len(encoded), 32)]
    return EpochHeader(
        epoch=int.from_bytes(words[0], "big"),
        previous=words[1],
        receipts_root=words[2],
        num_receipts=int.from_bytes(words[3], "big"),
        channels_root=words[4],
        payout_root=words[5],
        payout_total=int.from_bytes(words[6], "big"),
        batch_digest=words[7],
    )


_FIELDS = tuple(field.name for field in fields(EpochHeader))
