"""Searches a header that differs from the recomputed one for what convicts it, demand by demand.

The header commits to trees that nobody but the aggregator may know. Each answer to a demand shows
one leaf and its path; a path's siblings are subtrees, to compare with the own ones: where one
differs, the next demand goes. So a tree with few differences is searched in as many demands.

An answer is valid by itself (the contract saw to that), so a lie shows in one of three ways: a
demand that cannot be answered, which convicts by default; an answer that contradicts another or the
header before, which is an Accusation; or nothing, when all that differs is money that was claimed
and signed for. Decides what to demand next; demands nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .court import (
    AbsentAnswer,
    AccountAnswer,
    AccountTwice,
    Accusation,
    Answer,
    Case,
    ChannelAnswer,
    ChannelTwice,
    EntryAnswer,
    EntryTwice,
    Part,
    Question,
    Unbacked,
)
from .epoch import AccountLeaf, ChannelLeaf, EntryLeaf, Shown
from .state import EpochState
from .sumtree import Opening, SumNode, SumTree, nodes_of


class Inquiry:
    """One differing header. Owned by one task.

    `own` is the state that the batch leads to, and `touched` are the channels that it moves; where
    no batch can be had, it is the state before. `first` is what is asked before anything else, as
    far as the tree differs that it stands in: what whoever asks has money in.

        while (found := inquiry.accuse()) is None and (question := inquiry.ask()) is not None:
            … demand it, wait; unanswered in time: convicted by default; else inquiry.hear(answer)

    All that `ask` gives before the next answer may be demanded at once: each is a leaf below
    another node that differs.
    """

    def __init__(
        self,
        case: Case,
        own: EpochState,
        touched: Iterable[int] = (),
        first: Iterable[Question] = (),
    ) -> None:
        self._case = case
        self._own = own
        self._touched = tuple(touched)
        self._first = tuple(first)
        self._channels = _Seen(own.channels, case.header.channels_root)
        self._accounts = _Seen(own.accounts, case.header.payout_root)
        self._entries: dict[int, _Seen] = {}  # by the index of the account
        self._channel_answers: dict[int, ChannelAnswer] = {}
        self._shown_channels: dict[int, Shown[ChannelLeaf]] = {}
        self._shown_accounts: dict[int, Shown[AccountLeaf]] = {}
        self._entry_answers: dict[tuple[int, int], EntryAnswer] = {}
        self._asked: set[Question] = set()
        self._accusation = next(self._against_sums(), None)

    def accuse(self) -> Accusation | None:
        """Return what convicts the header by all that is known of it, or None."""
        return self._accusation

    def ask(self) -> Question | None:
        """Return what to demand next, or None when nothing that differs is left to see."""
        question = next((each for each in self._wanted() if each not in self._asked), None)
        if question is not None:
            self._asked.add(question)
        return question

    def hear(self, answer: Answer) -> None:
        """Take an answer that the contract accepted."""
        self._see(answer)
        if self._accusation is None:
            self._accusation = next(self._accusations(answer), None)

    # ── what to demand ──

    def _wanted(self) -> Iterator[Question]:
        for question in self._first:
            tree = self._channels if question.part == Part.CHANNEL else self._accounts
            if not tree.is_own:
                yield question
        for channel in self._channels.suspects():
            yield Question(Part.CHANNEL, channel)
        for account in self._accounts.suspects():
            yield Question(Part.ACCOUNT, account)
        for index, shown in self._shown_channels.items():
            yield from self._about_channel(index, shown)
        for index in self._shown_accounts:
            yield from self._about_account(index)
        for (index, _), answer in self._entry_answers.items():
            yield from self._about_entry(index, answer)
        yield from self._about_payouts()

    def _about_channel(self, index: int, shown: Shown[ChannelLeaf]) -> Iterator[Question]:
        if index not in self._channel_answers:
            yield Question(Part.CHANNEL, index)  # seen with an entry only, without its signature
        elsewhere = self._own.find_channel(shown.leaf.channel_id)
        if elsewhere is not None:
            yield Question(Part.CHANNEL, elsewhere)

    def _about_account(self, index: int) -> Iterator[Question]:
        for entry in self._entries[index].suspects():
            yield Question(Part.ENTRY, index, entry)
        elsewhere = self._own.find_account(self._shown_accounts[index].leaf.account)
        if elsewhere is not None and elsewhere != index:
            yield Question(Part.ACCOUNT, elsewhere)

    def _about_entry(self, index: int, answer: EntryAnswer) -> Iterator[Question]:
        """Ask for the own entry of the same channel, if it stands elsewhere: there may be both."""
        own = self._own
        account = own.find_account(answer.account.leaf.account)
        channel = own.find_channel(answer.entry.leaf.channel_id)
        if account is None or channel is None:
            return
        for payee in own.channel(channel).all_payees():
            if payee.account == account:
                yield Question(Part.ENTRY, index, payee.entry)

    def _about_payouts(self) -> Iterator[Question]:
        """Ask for the entries of channels whose payouts are not the own ones: are they backed?"""
        own = self._own
        committed = {index: own.channel(index).leaf.payouts for index in self._touched}
        committed |= {index: shown.leaf.payouts for index, shown in self._shown_channels.items()}
        for index, payouts in committed.items():
            if index < own.channels.size and own.payouts(index).commitment != payouts:
                for payee in own.channel(index).all_payees():
                    yield Question(Part.ENTRY, payee.account, payee.entry)

    # ── what convicts ──

    def _accusations(self, answer: Answer) -> Iterator[Accusation]:
        """Find what an answer convicts of, beside all that was seen before."""
        yield from self._against_sums()
        if isinstance(answer, ChannelAnswer):
            shown = answer.channel
            yield from self._case.against_signature(shown, answer.config, answer.node_signature)
            yield from self._against_channel(shown)
        elif isinstance(answer, AccountAnswer):
            yield from self._account_twice(answer.account)
        elif isinstance(answer, EntryAnswer):
            yield from self._against_channel(answer.channel)
            yield from self._account_twice(answer.account)
            yield from self._entry_twice(answer)
            place = answer.payout.proof.index
            yield from self._case.against_payout(answer.channel, answer.payout, place)
        elif answer.account is not None:
            yield from self._case.against_entries(answer.account, answer.opening)

    def _against_sums(self) -> Iterator[Accusation]:
        for tree in (self._channels, self._accounts):
            if tree.opening is not None:
                yield from self._case.against_sum(tree.opening)

    def _against_channel(self, shown: Shown[ChannelLeaf]) -> Iterator[Accusation]:
        yield from self._case.against_channel(shown)
        known = self._own.find_channel(shown.leaf.channel_id)
        if known is not None:
            yield from self._case.against_payouts(shown, self._own.payouts(known))
        yield from self._unbacked_by(shown.proof.index, shown)
        for other in self._shown_channels.values():
            is_elsewhere = other.proof.index != shown.proof.index
            if is_elsewhere and other.leaf.channel_id == shown.leaf.channel_id:
                yield ChannelTwice(other, shown)

    def _unbacked_by(self, index: int, shown: Shown[ChannelLeaf]) -> Iterator[Accusation]:
        """Find own entries, known to be in the header too, of a channel that is not there."""
        own = self._own
        if not self._accounts.is_own or index >= own.channels.size:
            return
        if own.channel(index).leaf.channel_id == shown.leaf.channel_id:
            return
        for payee in own.channel(index).all_payees():
            account = own.show_account(payee.account)
            yield Unbacked(account, own.show_entry(payee.account, payee.entry), shown, None)

    def _account_twice(self, shown: Shown[AccountLeaf]) -> Iterator[Accusation]:
        for other in self._shown_accounts.values():
            is_elsewhere = other.proof.index != shown.proof.index
            if is_elsewhere and other.leaf.account == shown.leaf.account:
                yield AccountTwice(other, shown)

    def _entry_twice(self, answer: EntryAnswer) -> Iterator[Accusation]:
        for other in self._entry_answers.values():
            is_same_account = other.account.proof.index == answer.account.proof.index
            is_elsewhere = other.entry.proof.index != answer.entry.proof.index
            is_same_channel = other.entry.leaf.channel_id == answer.entry.leaf.channel_id
            if is_same_account and is_elsewhere and is_same_channel:
                yield EntryTwice(answer.account, other.entry, answer.entry)

    # ── what was seen ──

    def _see(self, answer: Answer) -> None:
        if isinstance(answer, ChannelAnswer):
            self._channel_answers[answer.channel.proof.index] = answer
            self._see_channel(answer.channel)
        elif isinstance(answer, AccountAnswer):
            self._see_account(answer.account)
        elif isinstance(answer, EntryAnswer):
            self._see_account(answer.account)
            self._see_channel(answer.channel)
            index = answer.account.proof.index
            self._entries[index].hear(answer.entry)
            self._entry_answers[index, answer.entry.proof.index] = answer
        else:
            self._see_absence(answer)

    def _see_channel(self, shown: Shown[ChannelLeaf]) -> None:
        self._shown_channels[shown.proof.index] = shown
        self._channels.hear(shown)

    def _see_account(self, shown: Shown[AccountLeaf]) -> None:
        index = shown.proof.index
        self._shown_accounts[index] = shown
        self._accounts.hear(shown)
        if index not in self._entries:
            known = self._own.find_account(shown.leaf.account)
            own = SumTree() if known is None else self._own.entries(known)
            self._entries[index] = _Seen(own, shown.leaf.entries)

    def _see_absence(self, answer: AbsentAnswer) -> None:
        question = answer.question
        if question.part == Part.CHANNEL:
            self._channels.opening = answer.opening
        elif answer.account is None:
            self._accounts.opening = answer.opening
        else:
            self._see_account(answer.account)
            self._entries[question.index].opening = answer.opening


class _Seen:
    """A tree of which only a commitment is known, and what was shown of it; beside the own one."""

    def __init__(self, own: SumTree, expected: bytes) -> None:
        self._own = own
        self.is_own = own.commitment == expected
        self.opening: Opening | None = own.opening if self.is_own else None
        self._nodes: dict[tuple[int, int], SumNode] = {}
        self._leaves: set[int] = set()

    def hear(self, shown: Shown[ChannelLeaf] | Shown[AccountLeaf] | Shown[EntryLeaf]) -> None:
        """Note a leaf, and the nodes on its path and beside it."""
        self.opening = shown.opening
        self._nodes |= nodes_of(shown.leaf.node, shown.proof)
        self._leaves.add(shown.proof.index)

    def suspects(self) -> Iterator[int]:
        """Yield a leaf below each node that differs from the own one, the lowest nodes first."""
        if self.is_own:
            return
        if self.opening is None or not self._leaves:
            yield 0
            return
        for (height, place), node in sorted(self._nodes.items()):
            is_open = all(leaf >> height != place for leaf in self._leaves)
            if is_open and self._own.find_node(height, place, self.opening.size) != node:
                yield place << height
