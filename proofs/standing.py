"""Holds where one channel and one account stand, packed: there are hundreds of thousands of them.

Values, never changed in place: what an epoch replaces is kept until it cannot be taken back any
more. Knows no tree; state.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from .epoch import ACCOUNT_LEAF_BYTES, AccountLeaf, ChannelLeaf, decode_account_leaf
from .voucher import ChannelConfig

PAYEE_BYTES = 24
ENTRY_BYTES = 6
RECEIPT_BYTES = 8

_PAYEE = Struct(">II16s")
_ENTRY = Struct(">IH")


class Payee(NamedTuple):
    """One row of a channel's payouts: which account, which of its entries, how much."""

    account: int
    entry: int
    amount: int


class Place(NamedTuple):
    """Where one entry of an account stands: in which channel, at which place of its payouts."""

    channel: int
    place: int


@dataclass(frozen=True, slots=True)
class ChannelStanding:
    """A channel after its last receipt.

    `node_signature` is the one under the last receipt. `payees` are packed rows, in the order of
    the channel's payouts; `receipts` the places of its receipts in the log, 8 bytes each.
    """

    config: ChannelConfig
    leaf: ChannelLeaf
    node_signature: bytes
    payees: bytes
    receipts: bytes

    @property
    def num_payees(self) -> int:
        """Return how many accounts this channel paid."""
        return len(self.payees) // PAYEE_BYTES

    def payee(self, place: int) -> Payee:
        """Return one row."""
        return read_payee(self.payees, place)

    def all_payees(self) -> list[Payee]:
        """Return all rows."""
        return [
            Payee(account, entry, int.from_bytes(amount, "big"))
            for account, entry, amount in _PAYEE.iter_unpack(self.payees)
        ]

    def packed_amount(self, place: int) -> bytes:
        """Return the amount of one row, 16 bytes."""
        end = (place + 1) * PAYEE_BYTES
        return self.payees[end - 16 : end]

    def packed_amounts(self) -> Iterator[tuple[int, bytes]]:
        """Yield (account, amount as 16 bytes) of all rows."""
        for account, _, amount in _PAYEE.iter_unpack(self.payees):
            yield account, amount

    def place_in_log(self, sequence: int) -> int | None:
        """Return where a receipt of this channel stands in the log, or None where it has none."""
        start = (sequence - 1) * RECEIPT_BYTES
        found = self.receipts[start : start + RECEIPT_BYTES] if start >= 0 else b""
        return int.from_bytes(found, "big") if found else None


@dataclass(frozen=True, slots=True)
class AccountStanding:
    """An account after its last award. `places` are its entries, packed, in order."""

    leaf: AccountLeaf
    places: bytes

    @property
    def packed(self) -> bytes:
        """Return it as bytes, which is how very many of them are kept."""
        return self.leaf.encoded + self.places

    @property
    def num_entries(self) -> int:
        """Return how many channels paid this account."""
        return len(self.places) // ENTRY_BYTES

    def place(self, entry: int) -> Place:
        """Return where an entry stands."""
        return Place(*_ENTRY.unpack_from(self.places, entry * ENTRY_BYTES))

    def all_places(self) -> list[Place]:
        """Return where all entries stand."""
        return [Place(*found) for found in _ENTRY.iter_unpack(self.places)]


def unpack_account(packed: bytes) -> AccountStanding:
    """Return an account from its own bytes."""
    leaf = decode_account_leaf(packed[:ACCOUNT_LEAF_BYTES])
    return AccountStanding(leaf, packed[ACCOUNT_LEAF_BYTES:])


def read_payee(payees: bytes | bytearray, place: int) -> Payee:
    """Return one row of those of a channel."""
    account, entry, amount = _PAYEE.unpack_from(payees, place * PAYEE_BYTES)
    return Payee(account, entry, int.from_bytes(amount, "big"))


def write_payee(payees: bytearray, place: int, payee: Payee) -> None:
    """Set one row of those of a channel, or append the next."""
    start = place * PAYEE_BYTES
    payees[start : start + PAYEE_BYTES] = pack_payee(payee)


def pack_payee(payee: Payee) -> bytes:
    """Pack one row of a channel."""
    return _PAYEE.pack(payee.account, payee.entry, payee.amount.to_bytes(16, "big"))


def pack_places(places: Iterable[Place]) -> bytes:
    """Pack the entries of an account."""
    return b"".join(_ENTRY.pack(channel, place) for channel, place in places)
