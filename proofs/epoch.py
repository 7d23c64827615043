"""Defines the header of an epoch, which the aggregator posts, and the leaves of its trees.

Twin of contracts/src/types/Header.sol and Leaves.sol. Knows no batch and posts nothing.

    channels root   a leaf for each channel: how far it is, what it owes to whom
    payout root     a leaf for each account: what it was awarded, and by which channels (entries)

Both trees have the sum `payout_total`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from .digest import keccak, word
from .sumtree import Opening, Proof, SumNode, leaf, root_of

NO_HEADER = bytes(32)  # what the first header names as previous
CHANNEL_LEAF_BYTES = 152
ACCOUNT_LEAF_BYTES = 68


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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class PayoutLeaf:
    """What one channel paid to one account."""

    account: bytes
    amount: int

    @property
    def encoded(self) -> bytes:
        """Return the leaf's content, 36 bytes."""
        return self.account + self.amount.to_bytes(16, "big")

    @property
    def node(self) -> SumNode:
        """Return the leaf in the channel's tree of payouts."""
        return leaf(self.encoded, self.amount)


L = TypeVar("L", ChannelLeaf, AccountLeaf, EntryLeaf, PayoutLeaf)


@dataclass(frozen=True)
class Shown(Generic[L]):
    """A leaf, and the path from it to its tree's root."""

    leaf: L
    proof: Proof

    @property
    def opening(self) -> Opening:
        """Return what the tree commits to, by this path. Raises ValueError where it is none."""
        root = root_of(self.leaf.node, self.proof)
        return Opening(self.proof.size, root.sum, root.hash)

    @property
    def commitment(self) -> bytes:
        """Return the commitment that this path leads to. Raises ValueError where it is none."""
        return self.opening.commitment


def decode_channel_leaf(content: bytes) -> ChannelLeaf:
    """Decode a channel's leaf from its own content."""
    assert len(content) == CHANNEL_LEAF_BYTES, f"a channel's leaf has {CHANNEL_LEAF_BYTES} bytes"
    return ChannelLeaf(
        channel_id=content[:32],
        sequence=int.from_bytes(content[32:40], "big"),
        cumulative=int.from_bytes(content[40:56], "big"),
        payouts=content[56:88],
        body=content[88:120],
        evidence=content[120:],
    )


def decode_account_leaf(content: bytes) -> AccountLeaf:
    """Decode an account's leaf from its own content."""
    assert len(content) == ACCOUNT_LEAF_BYTES, f"an account's leaf has {ACCOUNT_LEAF_BYTES} bytes"
    return AccountLeaf(content[:20], int.from_bytes(content[20:36], "big"), content[36:])


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
