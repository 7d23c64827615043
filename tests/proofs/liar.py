"""An aggregator's books, in which it can write whatever it likes, and answer demands from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from proofs.court import (
    AbsentAnswer,
    AccountAnswer,
    Answer,
    ChannelAnswer,
    EntryAnswer,
    Part,
    Question,
)
from proofs.digest import keccak
from proofs.epoch import (
    AccountLeaf,
    ChannelLeaf,
    EntryLeaf,
    EpochHeader,
    PayoutLeaf,
    Shown,
)
from proofs.receipt import signed_digest
from proofs.signing import Signer
from proofs.state import EpochState
from proofs.sumtree import Opening, SumTree
from proofs.voucher import ChannelConfig
from tests.proofs.economy import NETWORK


@dataclass
class Channel:
    config: ChannelConfig
    leaf: ChannelLeaf
    node_signature: bytes
    payouts: list[PayoutLeaf]

    @property
    def tree(self) -> SumTree:
        return SumTree(line.node for line in self.payouts)

    def sign(self, operator: Signer, **changes: object) -> None:
        """Write a receipt of the channel as its operator would, over its payouts as they are."""
        leaf = replace(self.leaf, payouts=self.tree.commitment)
        leaf = replace(leaf, **changes)  # type: ignore[arg-type]
        digest = signed_digest(
            leaf.channel_id,
            leaf.sequence,
            leaf.cumulative,
            leaf.payouts,
            body=leaf.body,
            network=NETWORK,
        )
        self.node_signature = operator.sign_digest(digest)
        self.leaf = replace(leaf, evidence=keccak(self.node_signature))


@dataclass
class Account:
    account: bytes
    entries: list[EntryLeaf]
    extra: int = 0  # what the leaf says beyond its entries
    size: int | None = None  # how many entries the leaf commits to, if it lies

    @property
    def tree(self) -> SumTree:
        return SumTree(entry.node for entry in self.entries)

    @property
    def leaf(self) -> AccountLeaf:
        tree = self.tree
        return AccountLeaf(self.account, tree.root.sum + self.extra, self.opening.commitment)

    @property
    def opening(self) -> Opening:
        honest = self.tree.opening
        return honest if self.size is None else replace(honest, size=self.size)


@dataclass
class Books:
    channels: list[Channel]
    accounts: list[Account]
    overrides: dict[str, object] = field(default_factory=dict)  # of the header
    posted: tuple[SumTree, SumTree] = field(default_factory=lambda: (SumTree(), SumTree()))

    @classmethod
    def of(cls, state: EpochState) -> Books:
        """Copy an honest state."""
        channels = []
        for index in range(state.channels.size):
            standing = state.channel(index)
            lines = [PayoutLeaf(*row) for row in state.payouts(index).rows]
            channels.append(Channel(standing.config, standing.leaf, standing.node_signature, lines))
        accounts = []
        for index in range(state.accounts.size):
            account = state.account(index)
            entries = [state.entry(index, number) for number in range(account.num_entries)]
            accounts.append(Account(account.leaf.account, entries))
        return cls(channels, accounts)

    @property
    def channel_tree(self) -> SumTree:
        return SumTree(channel.leaf.node for channel in self.channels)

    @property
    def account_tree(self) -> SumTree:
        return SumTree(account.leaf.node for account in self.accounts)

    def find(self, account: bytes) -> Account:
        for found in self.accounts:
            if found.account == account:
                return found
        self.accounts.append(Account(account, []))
        return self.accounts[-1]

    def balance(self, avoid: set[bytes]) -> None:
        """Make both trees add up to the same, by taking from or giving to accounts not named."""
        more = self.account_tree.root.sum - self.channel_tree.root.sum
        for account in self.accounts:
            if account.account in avoid:
                continue
            for number, entry in enumerate(account.entries):
                part = min(more, entry.amount) if more > 0 else more
                account.entries[number] = replace(entry, amount=entry.amount - part)
                more -= part
                if not more:
                    return

    def header(self, honest: EpochHeader) -> EpochHeader:
        """The header of these books as they are now, in place of an honest one."""
        self.posted = self.channel_tree, self.account_tree
        header = replace(
            honest,
            channels_root=self.channel_tree.commitment,
            payout_root=self.account_tree.commitment,
            payout_total=self.account_tree.root.sum,
        )
        return replace(header, **self.overrides)  # type: ignore[arg-type]

    def answer(self, question: Question) -> Answer:
        """The best answer that these books give."""
        channels, accounts = self.posted
        index = question.index
        if question.part == Part.CHANNEL:
            if index >= len(self.channels):
                return AbsentAnswer(question, None, channels.opening)
            channel = self.channels[index]
            return ChannelAnswer(self._channel(index), channel.config, channel.node_signature)
        if index >= len(self.accounts):
            return AbsentAnswer(question, None, accounts.opening)
        account = self.accounts[index]
        shown = Shown(account.leaf, accounts.prove(index))
        if question.part == Part.ACCOUNT:
            return AccountAnswer(shown, account.opening)
        if question.entry >= account.opening.size:
            return AbsentAnswer(question, shown, account.opening)
        entry = account.entries[question.entry]
        where = min(entry.channel_index, len(self.channels) - 1)
        lines = self.channels[where]
        place = min(entry.place, len(lines.payouts) - 1)
        return EntryAnswer(
            shown,
            Shown(entry, account.tree.prove(question.entry)),
            self._channel(where),
            Shown(lines.payouts[place], lines.tree.prove(place)),
        )

    def _channel(self, index: int) -> Shown[ChannelLeaf]:
        return Shown(self.channels[index].leaf, self.posted[0].prove(index))
