"""Plans an epoch: receipts one after the other → the Transition of a state.

Believes what it is told, so that it can also plan what a dishonest aggregator would have planned;
batch.py checks. Changes nothing in the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .attribution.shares import AdapterTerms
from .digest import keccak
from .epoch import AccountLeaf, ChannelLeaf, EntryLeaf, EpochHeader
from .payouts import ChannelPayouts
from .receipt import Receipt, SignedReceipt, digest_of, leaf_of
from .standing import (
    ENTRY_BYTES,
    PAYEE_BYTES,
    RECEIPT_BYTES,
    AccountStanding,
    ChannelStanding,
    Payee,
    Place,
    pack_places,
    read_payee,
    write_payee,
)
from .state import EpochState, Transition
from .sumtree import Opening, SumTree
from .voucher import ChannelConfig


@dataclass
class _Channel:
    """A channel while its receipts are taken."""

    config: ChannelConfig
    payouts: ChannelPayouts
    payees: bytearray
    receipts: bytearray
    leaf: ChannelLeaf | None = None
    node_signature: bytes = b""


@dataclass
class _Account:
    """An account while awards to it are taken. `places` are its entries before, packed; `touched`
    are those that change.
    """

    account: bytes
    places: bytes
    added: list[Place] = field(default_factory=list)
    touched: dict[int, Place] = field(default_factory=dict)


class Draft:
    """One epoch over a state, as far as it is planned."""

    def __init__(self, state: EpochState) -> None:
        self._state = state
        self._channels: dict[int, _Channel] = {}
        self._accounts: dict[int, _Account] = {}
        self._new_channels: dict[bytes, int] = {}
        self._new_accounts: dict[bytes, int] = {}
        self._adapters: dict[bytes, AdapterTerms] = {}
        self._leaves: list[bytes] = []

    def learn(self, adapters: Mapping[bytes, AdapterTerms]) -> None:
        """Take the terms of adapters that are new in this epoch."""
        self._adapters.update(adapters)

    def terms(self, adapter: bytes) -> AdapterTerms | None:
        """Return an adapter's terms, or None where they are not known."""
        return self._adapters.get(adapter) or self._state.adapters.get(adapter)

    def take(
        self,
        signed: SignedReceipt,
        receipt: Receipt,
        config: ChannelConfig,
        awards: Sequence[tuple[bytes, int]],
        payouts: ChannelPayouts,
    ) -> None:
        """Take the next receipt: its body, what it awards, and the channel's payouts after it."""
        index = self._index_of_channel(receipt.channel_id)
        channel = self._channels.get(index) or self._begin(index, config)
        for account, part in awards:
            self._award(index, channel, account, part, payouts)
        channel.payouts = payouts
        channel.node_signature = signed.node_signature
        channel.leaf = leaf_of_receipt(signed, receipt)
        place = self._state.log.size + len(self._leaves)
        channel.receipts += place.to_bytes(RECEIPT_BYTES, "big")
        self._leaves.append(leaf_of(signed.body))

    def finish(self, batch_digest: bytes) -> Transition:
        """Return the whole epoch, with its header."""
        state = self._state
        channels = {index: _standing(channel) for index, channel in self._channels.items()}
        entries = {index: self._entries(index, one) for index, one in self._accounts.items()}
        accounts = {
            index: _standing_of(one, entries[index].opening)
            for index, one in self._accounts.items()
        }
        channels_change = state.channels.plan(
            {index: standing.leaf.node for index, standing in channels.items()}
        )
        accounts_change = state.accounts.plan(
            {index: standing.leaf.node for index, standing in accounts.items()}
        )
        header = EpochHeader(
            epoch=state.epoch + 1,
            previous=state.header_hash,
            receipts_root=state.log.root_with(self._leaves),
            num_receipts=state.log.size + len(self._leaves),
            channels_root=channels_change.commitment,
            payout_root=accounts_change.commitment,
            payout_total=accounts_change.root.sum,
            batch_digest=batch_digest,
        )
        return Transition(
            header=header,
            channels=channels,
            accounts=accounts,
            payouts={index: channel.payouts for index, channel in self._channels.items()},
            entries=entries,
            channels_change=channels_change,
            accounts_change=accounts_change,
            leaves=tuple(self._leaves),
            adapters=dict(self._adapters),
        )

    def _begin(self, index: int, config: ChannelConfig) -> _Channel:
        if index < self._state.channels.size:
            standing = self._state.channel(index)
            channel = _Channel(
                standing.config,
                self._state.payouts(index),
                bytearray(standing.payees),
                bytearray(standing.receipts),
            )
        else:
            channel = _Channel(config, ChannelPayouts(), bytearray(), bytearray())
        self._channels[index] = channel
        return channel

    def _award(
        self, index: int, channel: _Channel, account: bytes, part: int, payouts: ChannelPayouts
    ) -> None:
        place = payouts.find(account)
        assert place is not None, "the payouts after a receipt name everybody whom it pays"
        num_payees = len(channel.payees) // PAYEE_BYTES
        if place < num_payees:
            payee = read_payee(channel.payees, place)
            one = self._account(payee.account, account)
            more = Payee(payee.account, payee.entry, payee.amount + part)
            write_payee(channel.payees, place, more)
            one.touched[payee.entry] = Place(index, place)
            return
        assert place == num_payees, "accounts are added in the order of the awards"
        number = self._index_of_account(account)
        one = self._account(number, account)
        entry = len(one.places) // ENTRY_BYTES + len(one.added)
        one.added.append(Place(index, place))
        one.touched[entry] = Place(index, place)
        write_payee(channel.payees, place, Payee(number, entry, part))

    def _entries(self, index: int, one: _Account) -> SumTree:
        """Return an account's entries after the epoch."""
        is_old = index < self._state.accounts.size
        tree = self._state.entries(index).copy() if is_old else SumTree()
        tree.update({entry: self._entry(place).node for entry, place in one.touched.items()})
        return tree

    def _entry(self, place: Place) -> EntryLeaf:
        channel = self._channels[place.channel]
        assert channel.leaf is not None, "a channel that awards took a receipt"
        amount = read_payee(channel.payees, place.place).amount
        return EntryLeaf(channel.leaf.channel_id, amount, place.channel, place.place)

    def _index_of_channel(self, channel_id: bytes) -> int:
        found = self._state.find_channel(channel_id)
        if found is not None:
            return found
        new = self._state.channels.size + len(self._new_channels)
        return self._new_channels.setdefault(channel_id, new)

    def _index_of_account(self, account: bytes) -> int:
        found = self._state.find_account(account)
        if found is not None:
            return found
        new = self._state.accounts.size + len(self._new_accounts)
        return self._new_accounts.setdefault(account, new)

    def _account(self, index: int, account: bytes) -> _Account:
        one = self._accounts.get(index)
        if one is None:
            is_old = index < self._state.accounts.size
            places = self._state.account(index).places if is_old else b""
            one = self._accounts[index] = _Account(account, places)
        return one


def leaf_of_receipt(signed: SignedReceipt, receipt: Receipt) -> ChannelLeaf:
    """Return the leaf of a channel whose last receipt this is."""
    return ChannelLeaf(
        receipt.channel_id,
        receipt.sequence,
        receipt.cumulative,
        receipt.payouts,
        body=digest_of(signed.body),
        evidence=keccak(signed.node_signature),
    )


def _standing_of(one: _Account, entries: Opening) -> AccountStanding:
    leaf = AccountLeaf(one.account, entries.sum, entries.commitment)
    return AccountStanding(leaf, one.places + pack_places(one.added))


def _standing(channel: _Channel) -> ChannelStanding:
    assert channel.leaf is not None, "a channel that was begun took a receipt"
    return ChannelStanding(
        channel.config,
        channel.leaf,
        channel.node_signature,
        bytes(channel.payees),
        bytes(channel.receipts),
    )
