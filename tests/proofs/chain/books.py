"""An aggregator's books over real channels of a chain, in which it may write whatever it likes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proofs.chain.structs import PostedHeader
from proofs.court import ExitRequest
from proofs.digest import Network, keccak
from proofs.epoch import (
    NO_HEADER,
    AccountLeaf,
    ChannelLeaf,
    EntryLeaf,
    EpochHeader,
    PayoutLeaf,
    Shown,
)
from proofs.receipt import NO_SIGNATURE, signed_digest
from proofs.signing import Signer
from proofs.sumtree import NOTHING, SumTree
from proofs.voucher import ChannelConfig, channel_id


@dataclass
class Account:
    """What an account is awarded; `extra` is what its leaf says beyond its entries."""

    address: bytes
    entries: list[EntryLeaf] = field(default_factory=list)
    extra: int = 0

    @property
    def tree(self) -> SumTree:
        return SumTree(entry.node for entry in self.entries)

    @property
    def leaf(self) -> AccountLeaf:
        tree = self.tree
        return AccountLeaf(self.address, tree.root.sum + self.extra, tree.commitment)


@dataclass
class Channel:
    """A channel's last receipt, and what it owes to whom."""

    config: ChannelConfig
    leaf: ChannelLeaf
    payouts: list[PayoutLeaf] = field(default_factory=list)
    signatures: tuple[bytes, bytes] = (NO_SIGNATURE, NO_SIGNATURE)

    @property
    def tree(self) -> SumTree:
        return SumTree(line.node for line in self.payouts)


@dataclass
class Books:
    """Everything that one header commits to; its owner knows the operator's and client's keys."""

    network: Network
    operator: Signer
    client: Signer
    channels: list[Channel] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    num_receipts: int = 0

    def copy(self) -> Books:
        return replace(
            self,
            channels=copy.deepcopy(self.channels),
            accounts=copy.deepcopy(self.accounts),
        )

    def pay(self, config: ChannelConfig, amounts: Mapping[bytes, int], salt: str = "") -> int:
        """The channel's next receipt, which pays these accounts; its index."""
        index = self.open(config)
        channel = self.channels[index]
        for account, amount in amounts.items():
            place = self._place(channel, account)
            line = channel.payouts[place]
            channel.payouts[place] = replace(line, amount=line.amount + amount)
            self._book(index, place)
        leaf = channel.leaf
        self.num_receipts += 1
        body = hashlib.sha256(f"{leaf.channel_id.hex()} {leaf.sequence + 1} {salt}".encode())
        cumulative = leaf.cumulative + sum(amounts.values())
        self.sign(index, sequence=leaf.sequence + 1, cumulative=cumulative, body=body.digest())
        return index

    def open(self, config: ChannelConfig) -> int:
        """The index of a channel, new or not."""
        identity = channel_id(config, self.network)
        for index, channel in enumerate(self.channels):
            if channel.leaf.channel_id == identity:
                return index
        self.channels.append(
            Channel(config, ChannelLeaf(identity, 0, 0, NOTHING, bytes(32), bytes(32)))
        )
        return len(self.channels) - 1

    def sign(self, index: int, **changes: object) -> None:
        """A receipt of the channel over its payouts as they are, signed by both sides."""
        channel = self.channels[index]
        leaf = replace(channel.leaf, payouts=channel.tree.commitment)
        leaf = replace(leaf, **changes)
        signatures = tuple(
            signer.sign_digest(self.digest(leaf)) for signer in (self.operator, self.client)
        )
        channel.signatures = signatures
        channel.leaf = replace(leaf, evidence=keccak(signatures[0]))

    def digest(self, leaf: ChannelLeaf) -> bytes:
        place = (leaf.channel_id, leaf.sequence, leaf.cumulative, leaf.payouts)
        return signed_digest(*place, body=leaf.body, network=self.network)

    def account(self, address: bytes) -> Account:
        return next(each for each in self.accounts if each.address == address)

    # ── what a header commits to ──

    def header(self, before: PostedHeader | None, **changes: object) -> EpochHeader:
        channels = self.channel_tree
        header = EpochHeader(
            epoch=before.header.epoch + 1 if before else 1,
            previous=before.header.hash if before else NO_HEADER,
            receipts_root=b"\x11" * 32,
            num_receipts=self.num_receipts,
            channels_root=channels.commitment,
            payout_root=self.account_tree.commitment,
            payout_total=channels.root.sum,
            batch_digest=b"\x22" * 32,
        )
        return replace(header, **changes)

    @property
    def channel_tree(self) -> SumTree:
        return SumTree(channel.leaf.node for channel in self.channels)

    @property
    def account_tree(self) -> SumTree:
        return SumTree(account.leaf.node for account in self.accounts)

    def show_channel(self, index: int) -> Shown[ChannelLeaf]:
        return Shown(self.channels[index].leaf, self.channel_tree.prove(index))

    def show_account(self, index: int) -> Shown[AccountLeaf]:
        return Shown(self.accounts[index].leaf, self.account_tree.prove(index))

    def show_entry(self, account: int, number: int) -> Shown[EntryLeaf]:
        found = self.accounts[account]
        return Shown(found.entries[number], found.tree.prove(number))

    def show_payout(self, channel: int, place: int) -> Shown[PayoutLeaf]:
        found = self.channels[channel]
        return Shown(found.payouts[place], found.tree.prove(place))

    def exit(
        self, index: int, before: Books | None = None, *, cosigned: bool = True
    ) -> ExitRequest:
        """How the channel settles, going on from what other books say of it."""
        channel = self.channels[index]
        known = before is not None and index < len(before.channels)
        return ExitRequest(
            config=channel.config,
            receipt=channel.leaf,
            node_signature=channel.signatures[0],
            client_signature=channel.signatures[1] if cosigned else NO_SIGNATURE,
            base=before.show_channel(index) if before is not None and known else None,
            paid=tuple(before.channels[index].payouts) if before is not None and known else (),
            owed=tuple(channel.payouts),
        )

    def _place(self, channel: Channel, account: bytes) -> int:
        for place, line in enumerate(channel.payouts):
            if line.account == account:
                return place
        channel.payouts.append(PayoutLeaf(account, 0))
        return len(channel.payouts) - 1

    def _book(self, index: int, place: int) -> None:
        """Have the account's entry say what the channel's line says."""
        channel = self.channels[index]
        line = channel.payouts[place]
        account = next((each for each in self.accounts if each.address == line.account), None)
        if account is None:
            account = Account(line.account)
            self.accounts.append(account)
        entry = EntryLeaf(channel.leaf.channel_id, line.amount, index, place)
        for number, old in enumerate(account.entries):
            if (old.channel_index, old.place) == (index, place):
                account.entries[number] = entry
                return
        account.entries.append(entry)
