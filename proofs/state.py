"""Keeps everything that follows from all epochs so far, and proves any part of it.

    channels   a leaf for each channel, in order of first receipt      → header.channels_root
    accounts   a leaf for each account, in order of first award        → header.payout_root
    entries    for each account, what each channel awarded to it       → the account's leaf
    payouts    for each channel, what it awarded to whom               → the channel's leaf
    log        a leaf for each receipt                                 → header.receipts_root

Takes a Transition (draft.py plans it) and can take it back. Checks nothing in it: batch.py does.
The two large trees and the log are kept whole; those of single channels and accounts are built when
they are asked for, and the last used ones kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .attribution.shares import AdapterTerms
from .channel import ChannelTip
from .digest import Network
from .epoch import (
    NO_HEADER,
    AccountLeaf,
    ChannelLeaf,
    EntryLeaf,
    EpochHeader,
    PayoutLeaf,
    Shown,
)
from .merkle import InclusionProof, Log
from .payouts import ADDRESS_BYTES, ChannelPayouts
from .standing import AccountStanding, ChannelStanding, unpack_account
from .sumtree import Change, SumTree

MAX_UNDO_EPOCHS = 16  # how many of the last epochs can be taken back
MAX_KEPT_LEAVES = 1 << 19  # of single channels' and accounts' trees, each; 100 bytes a leaf

T = TypeVar("T")


@dataclass(frozen=True)
class Transition:
    """What one epoch changes in a state, by index; new channels and accounts come after the last.

    Made for one state, and good for no other.
    """

    header: EpochHeader
    channels: Mapping[int, ChannelStanding]
    accounts: Mapping[int, AccountStanding]
    payouts: Mapping[int, ChannelPayouts]  # of the same channels
    entries: Mapping[int, SumTree]  # of the same accounts
    channels_change: Change
    accounts_change: Change
    leaves: tuple[bytes, ...]  # new in the log
    adapters: Mapping[bytes, AdapterTerms]  # new, by the digest of the manifest


@dataclass(frozen=True)
class _Undo:
    header: EpochHeader | None
    num_channels: int
    num_accounts: int
    log_size: int
    channels: Mapping[int, ChannelStanding]  # as they were; those that are new are missing
    accounts: Mapping[int, AccountStanding]
    transition_accounts: tuple[int, ...]
    transition_channels: tuple[int, ...]
    adapters: tuple[bytes, ...]


class EpochState:
    """The state after some epoch; before the first it is empty. Owned by one task.

    - `apply` and `revert` move it by one epoch; everything else only reads.
    - An index, of a channel, an account, an entry or a payee, is for ever.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.header: EpochHeader | None = None
        self.channels = SumTree()
        self.accounts = SumTree()
        self.log = Log()
        self.adapters: dict[bytes, AdapterTerms] = {}  # by the digest of the manifest
        self._channels: list[ChannelStanding] = []
        self._accounts: list[bytes] = []  # packed: the collector of garbage need not look at bytes
        self._channel_index: dict[bytes, int] = {}
        self._account_index: dict[bytes, int] = {}
        self._payouts = _Kept[ChannelPayouts]()
        self._entries = _Kept[SumTree]()
        self._undo: deque[_Undo] = deque(maxlen=MAX_UNDO_EPOCHS)

    # ── what it holds ──

    @property
    def epoch(self) -> int:
        """Return the last epoch's number; 0 before the first."""
        return self.header.epoch if self.header else 0

    @property
    def header_hash(self) -> bytes:
        """Return the hash that the next header names as previous."""
        return self.header.hash if self.header else NO_HEADER

    @property
    def num_undo(self) -> int:
        """Return how many epochs can be taken back."""
        return len(self._undo)

    @property
    def is_committed(self) -> bool:
        """Return whether the header commits to the two trees and the log as they are."""
        if self.header is None:
            return self.channels.size == self.accounts.size == self.log.size == 0
        return (
            self.channels.commitment == self.header.channels_root
            and self.accounts.commitment == self.header.payout_root
            and self.log.size == self.header.num_receipts
            and self.log.root() == self.header.receipts_root
        )

    def find_channel(self, channel_id: bytes) -> int | None:
        """Return a channel's index, or None when no receipt of it is here."""
        return self._channel_index.get(channel_id)

    def find_account(self, account: bytes) -> int | None:
        """Return an account's index, or None when nothing was awarded to it."""
        return self._account_index.get(account)

    def find_tip(self, channel_id: bytes) -> ChannelTip | None:
        """Return the end of a channel's chain of receipts, or None when none of it is here."""
        index = self.find_channel(channel_id)
        if index is None:
            return None
        standing = self.channel(index)
        leaf = standing.leaf
        return ChannelTip(
            standing.config, leaf.sequence, leaf.body, leaf.cumulative, payouts=self.payouts(index)
        )

    def channel(self, index: int) -> ChannelStanding:
        """Return where a channel stands."""
        return self._channels[index]

    def account(self, index: int) -> AccountStanding:
        """Return where an account stands."""
        return unpack_account(self._accounts[index])

    def all_accounts(self) -> list[bytes]:
        """List every account that was ever awarded something, in the order of the first awards."""
        return list(self._account_index)

    def amount(self, account: bytes) -> int:
        """Return what an account was awarded in all."""
        index = self.find_account(account)
        return 0 if index is None else self.account(index).leaf.amount

    def entry(self, account: int, number: int) -> EntryLeaf:
        """Return one entry of an account."""
        place = self.account(account).place(number)
        channel = self.channel(place.channel)
        amount = channel.payee(place.place).amount
        return EntryLeaf(channel.leaf.channel_id, amount, place.channel, place.place)

    def payouts(self, channel: int) -> ChannelPayouts:
        """Return what a channel paid to whom."""
        found = self._payouts.get(channel)
        if found is None:
            accounts = self._accounts
            found = ChannelPayouts.of_lines(
                accounts[account][:ADDRESS_BYTES] + amount
                for account, amount in self.channel(channel).packed_amounts()
            )
            self._payouts.put(channel, found, len(found))
        return found

    def entries(self, account: int) -> SumTree:
        """Return the tree of an account's entries."""
        found = self._entries.get(account)
        if found is None:
            found = SumTree.of_contents(self._entry_contents(account))
            self._entries.put(account, found, found.size)
        return found

    # ── proofs, under the last header ──

    def show_channel(self, index: int) -> Shown[ChannelLeaf]:
        """Prove where a channel stands."""
        return Shown(self.channel(index).leaf, self.channels.prove(index))

    def show_account(self, index: int) -> Shown[AccountLeaf]:
        """Prove what an account was awarded in all: what a claim shows."""
        return Shown(self.account(index).leaf, self.accounts.prove(index))

    def show_entry(self, account: int, number: int) -> Shown[EntryLeaf]:
        """Prove an entry, under the account's leaf."""
        return Shown(self.entry(account, number), self.entries(account).prove(number))

    def show_payout(self, channel: int, place: int) -> Shown[PayoutLeaf]:
        """Prove what a channel paid to one account, under the channel's leaf."""
        payouts = self.payouts(channel)
        leaf = PayoutLeaf(payouts.account(place), payouts.amount(place))
        return Shown(leaf, payouts.prove(place))

    def prove_receipt(self, channel_id: bytes, sequence: int) -> InclusionProof:
        """Prove that a receipt is in the log. Raises KeyError when it is not."""
        index = self.find_channel(channel_id)
        place = None if index is None else self.channel(index).place_in_log(sequence)
        if place is None:
            raise KeyError(f"no receipt {sequence} of channel {channel_id.hex()} in the log")
        return InclusionProof(place, self.log.size, tuple(self.log.prove_inclusion(place)))

    # ── one epoch on, and back ──

    def apply(self, transition: Transition) -> None:
        """Go on by one epoch, which was planned for this state."""
        header = transition.header
        assert header.previous == self.header_hash, "this transition is for another state"
        undo = _Undo(
            header=self.header,
            num_channels=self.channels.size,
            num_accounts=self.accounts.size,
            log_size=self.log.size,
            channels={
                index: self.channel(index)
                for index in transition.channels
                if index < self.channels.size
            },
            accounts={
                index: self.account(index)
                for index in transition.accounts
                if index < self.accounts.size
            },
            transition_accounts=tuple(transition.accounts),
            transition_channels=tuple(transition.channels),
            adapters=tuple(transition.adapters),
        )
        for index, entries in transition.entries.items():
            self._entries.put(index, entries, entries.size)
        for index, payouts in transition.payouts.items():
            self._payouts.put(index, payouts, len(payouts))
        self._set_channels(transition.channels)
        self._set_accounts(transition.accounts)
        self.channels.apply(transition.channels_change)
        self.accounts.apply(transition.accounts_change)
        self.log.append(transition.leaves)
        self.adapters.update(transition.adapters)
        self.header = header
        self._undo.append(undo)
        self._payouts.trim()
        self._entries.trim()

    def revert(self) -> None:
        """Take the last epoch back. Raises LookupError when it is too long ago."""
        if not self._undo:
            raise LookupError(f"only the last {MAX_UNDO_EPOCHS} epochs can be taken back")
        undo = self._undo.pop()
        for standing in self._channels[undo.num_channels :]:
            del self._channel_index[standing.leaf.channel_id]
        for packed in self._accounts[undo.num_accounts :]:
            del self._account_index[packed[:ADDRESS_BYTES]]
        del self._channels[undo.num_channels :]
        del self._accounts[undo.num_accounts :]
        self._set_channels(undo.channels)
        self._set_accounts(undo.accounts)
        self.channels.cut(undo.num_channels)
        self.channels.update({index: old.leaf.node for index, old in undo.channels.items()})
        self.accounts.cut(undo.num_accounts)
        self.accounts.update({index: old.leaf.node for index, old in undo.accounts.items()})
        self.log.cut(undo.log_size)
        for digest in undo.adapters:
            del self.adapters[digest]
        for index in undo.transition_channels:
            self._payouts.drop(index)
        for index in undo.transition_accounts:
            self._entries.drop(index)
        self.header = undo.header

    def restore(
        self,
        header: EpochHeader | None,
        channels: list[ChannelStanding],
        accounts: list[AccountStanding],
        log: Log,
        adapters: Mapping[bytes, AdapterTerms],
    ) -> None:
        """Fill an empty state with all of another's; checkpoint.py reads them from bytes."""
        assert not self._channels, "only an empty state can be filled"
        self.header = header
        self._set_channels(dict(enumerate(channels)))
        self._set_accounts(dict(enumerate(accounts)))
        self.channels.extend(standing.leaf.node for standing in channels)
        self.accounts.extend(standing.leaf.node for standing in accounts)
        self.log = log
        self.adapters.update(adapters)

    def check(self) -> None:
        """Raise AssertionError unless everything in here is what everything else says."""
        self.channels.check()
        self.accounts.check()
        assert self.channels.root.sum == self.accounts.root.sum
        for index, channel in enumerate(self._channels):
            assert self.find_channel(channel.leaf.channel_id) == index
            assert self.channels.leaf(index) == channel.leaf.node
            assert self.payouts(index).commitment == channel.leaf.payouts
            assert self.payouts(index).total == channel.leaf.cumulative
            for place, payee in enumerate(channel.all_payees()):
                assert self.account(payee.account).place(payee.entry) == (index, place)
        for index in range(len(self._accounts)):
            account = self.account(index)
            assert self.find_account(account.leaf.account) == index
            assert self.accounts.leaf(index) == account.leaf.node
            assert self.entries(index).commitment == account.leaf.entries
            assert self.entries(index).root.sum == account.leaf.amount
        assert self.is_committed

    def _entry_contents(self, account: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield (sum, content) of an account's entries, as `entry` has them, packed."""
        for index, place in self.account(account).all_places():
            channel = self._channels[index]
            amount = channel.packed_amount(place)
            where = index.to_bytes(8, "big") + place.to_bytes(8, "big")
            yield amount, channel.leaf.channel_id + amount + where

    def _set_channels(self, channels: Mapping[int, ChannelStanding]) -> None:
        for index, standing in sorted(channels.items()):
            if index == len(self._channels):
                self._channels.append(standing)
                self._channel_index[standing.leaf.channel_id] = index
            self._channels[index] = standing

    def _set_accounts(self, accounts: Mapping[int, AccountStanding]) -> None:
        for index, standing in sorted(accounts.items()):
            if index == len(self._accounts):
                self._accounts.append(b"")
                self._account_index[standing.leaf.account] = index
            self._accounts[index] = standing.packed


@dataclass
class _Kept(Generic[T]):
    """The trees that were used last, as many as have MAX_KEPT_LEAVES together."""

    # The last used comes last. No plain dict: to find its first key, it walks over all that were
    # taken out before.
    _trees: OrderedDict[int, tuple[T, int]] = field(default_factory=OrderedDict)
    _num_leaves: int = 0

    def get(self, index: int) -> T | None:
        """Find a tree, and note that it is in use."""
        found = self._trees.get(index)
        if found is None:
            return None
        self._trees.move_to_end(index)
        return found[0]

    def put(self, index: int, tree: T, num_leaves: int) -> None:
        """Keep a tree, in place of the one of the same index."""
        self.drop(index)
        self._trees[index] = (tree, num_leaves)
        self._num_leaves += num_leaves

    def drop(self, index: int) -> None:
        """Forget a tree, if it is kept."""
        _, num_leaves = self._trees.pop(index, (None, 0))
        self._num_leaves -= num_leaves

    def trim(self) -> None:
        """Forget what was used least lately, until the rest fits."""
        while self._num_leaves > MAX_KEPT_LEAVES:
            self.drop(next(iter(self._trees)))
