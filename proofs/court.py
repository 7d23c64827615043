"""Builds what convicts an aggregator whose header lies, and what answers for one that does not.

Twin of contracts/src/court and contracts/src/settlement/Exits.sol: each Accusation has the
arguments of the contract's proof of the same name, besides the posted headers. Reads no chain: what
the chain knows comes as Facts. What nobody can locate, inquiry.py searches for.

    case = Case(before, header, facts)
    find_lies(case, after)     the header commits to `after`: every proof that holds against it
    answer(state, question)    what an honest aggregator, or any mirror, shows on demand
    build_exit(…)              how a channel settles without an aggregator
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .digest import keccak
from .draft import leaf_of_receipt
from .epoch import (
    AccountLeaf,
    ChannelLeaf,
    EntryLeaf,
    EpochHeader,
    PayoutLeaf,
    Shown,
)
from .errors import BadSignature
from .payouts import ChannelPayouts
from .promise import Promise
from .receipt import SignedReceipt, decode_body, signed_digest
from .signing import recover
from .state import EpochState
from .sumtree import Opening
from .voucher import ChannelConfig, channel_id

# ── accusations: one for each lie that a header can tell ──


@dataclass(frozen=True)
class Unfunded:
    """A channel's receipts cost more than was claimed of it."""

    channel: Shown[ChannelLeaf]


@dataclass(frozen=True)
class Forged:
    """A channel does not pay the settlement contract, or its last receipt is not its operator's."""

    channel: Shown[ChannelLeaf]
    config: ChannelConfig
    node_signature: bytes


@dataclass(frozen=True)
class Missummed:
    """The tree of channels, or that of accounts, does not add up to the header's total, or is said
    to be empty.
    """

    opening: Opening


@dataclass(frozen=True)
class ChannelMissummed:
    """A channel's payouts do not add up to what its receipts cost."""

    channel: Shown[ChannelLeaf]
    payouts: Opening


@dataclass(frozen=True)
class AccountMissummed:
    """An account's entries do not add up to what it is awarded."""

    account: Shown[AccountLeaf]
    entries: Opening


@dataclass(frozen=True)
class Unbacked:
    """An account is awarded what no channel owes it.

    `channel` stands at the entry's index, or anywhere where that is out of range; `payout` at its
    place likewise, and is None where the channel is already another one.
    """

    account: Shown[AccountLeaf]
    entry: Shown[EntryLeaf]
    channel: Shown[ChannelLeaf]
    payout: Shown[PayoutLeaf] | None


@dataclass(frozen=True)
class ChannelTwice:
    """A channel has two leaves."""

    one: Shown[ChannelLeaf]
    other: Shown[ChannelLeaf]


@dataclass(frozen=True)
class AccountTwice:
    """An account has two leaves."""

    one: Shown[AccountLeaf]
    other: Shown[AccountLeaf]


@dataclass(frozen=True)
class EntryTwice:
    """An account has two entries of one channel."""

    account: Shown[AccountLeaf]
    one: Shown[EntryLeaf]
    other: Shown[EntryLeaf]


@dataclass(frozen=True)
class TakenBack:
    """A channel stands behind where it stood in the header before, was rewritten, or lost its
    place.

    `later` stands at the same index, or anywhere where that is out of range.
    """

    earlier: Shown[ChannelLeaf]
    later: Shown[ChannelLeaf]


@dataclass(frozen=True)
class Lowered:
    """A channel went on, but owes an account less than it did, or another in its place."""

    earlier: Shown[ChannelLeaf]
    later: Shown[ChannelLeaf]
    owed_earlier: Shown[PayoutLeaf]
    owed_later: Shown[PayoutLeaf]


@dataclass(frozen=True)
class AfterExit:
    """A channel that has left was moved. `earlier` is None in the first epoch."""

    channel: Shown[ChannelLeaf]
    earlier: Shown[ChannelLeaf] | None


Accusation = (
    Unfunded
    | Forged
    | Missummed
    | ChannelMissummed
    | AccountMissummed
    | Unbacked
    | ChannelTwice
    | AccountTwice
    | EntryTwice
    | TakenBack
    | Lowered
    | AfterExit
)


# ── demands and answers ──


class Part(IntEnum):
    """What of a header is demanded."""

    CHANNEL = 0
    ACCOUNT = 1
    ENTRY = 2


@dataclass(frozen=True)
class Question:
    """A leaf that is demanded: of channels, of accounts, or entry `entry` of account `index`."""

    part: Part
    index: int
    entry: int = 0


@dataclass(frozen=True)
class ChannelAnswer:
    """A channel's leaf, ours and signed by its operator."""

    channel: Shown[ChannelLeaf]
    config: ChannelConfig
    node_signature: bytes


@dataclass(frozen=True)
class AccountAnswer:
    """An account's leaf, whose entries add up to it."""

    account: Shown[AccountLeaf]
    entries: Opening


@dataclass(frozen=True)
class EntryAnswer:
    """An account's entry, backed by a line of a channel's payouts."""

    account: Shown[AccountLeaf]
    entry: Shown[EntryLeaf]
    channel: Shown[ChannelLeaf]
    payout: Shown[PayoutLeaf]


@dataclass(frozen=True)
class AbsentAnswer:
    """There is no such leaf: the tree is smaller. For an entry, `account` is the account's leaf,
    if there is one.
    """

    question: Question
    account: Shown[AccountLeaf] | None
    opening: Opening


Answer = ChannelAnswer | AccountAnswer | EntryAnswer | AbsentAnswer


def answer(state: EpochState, question: Question) -> Answer:
    """Answer a demand about the last header of this state."""
    index = question.index
    if question.part == Part.CHANNEL:
        if index >= state.channels.size:
            return AbsentAnswer(question, None, state.channels.opening)
        standing = state.channel(index)
        return ChannelAnswer(state.show_channel(index), standing.config, standing.node_signature)
    if index >= state.accounts.size:
        return AbsentAnswer(question, None, state.accounts.opening)
    account = state.show_account(index)
    entries = state.entries(index)
    if question.part == Part.ACCOUNT:
        return AccountAnswer(account, entries.opening)
    if question.entry >= entries.size:
        return AbsentAnswer(question, account, entries.opening)
    entry = state.show_entry(index, question.entry)
    return EntryAnswer(
        account,
        entry,
        state.show_channel(entry.leaf.channel_index),
        state.show_payout(entry.leaf.channel_index, entry.leaf.place),
    )


# ── one header before the court ──


@dataclass(frozen=True)
class Facts:
    """What else counts about a header, as the caller read it.

    A channel that is missing in `claimed` was not looked up; one that is missing in `left_at` has
    not left. Times in Unix seconds of the chain.
    """

    posted_at: int
    claimed: Mapping[bytes, int] = field(default_factory=dict)
    left_at: Mapping[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A posted header, the state to which the header before it commits, and the facts."""

    before: EpochState
    header: EpochHeader
    facts: Facts

    def against_sum(self, opening: Opening) -> Iterator[Accusation]:
        """Compare what the tree of channels or accounts adds up to with the header's total."""
        if not adds_to(opening, self.header.payout_total):
            yield Missummed(opening)

    def against_channel(self, channel: Shown[ChannelLeaf]) -> Iterator[Accusation]:
        """Compare a channel's leaf with the chain's facts and with the header before."""
        leaf = channel.leaf
        claimed = self.facts.claimed.get(leaf.channel_id)
        if claimed is not None and leaf.cumulative > claimed:
            yield Unfunded(channel)
        earlier = self._find_earlier(channel)
        if earlier is not None and not (
            earlier.proof.index == channel.proof.index and goes_on(earlier.leaf, leaf)
        ):
            yield TakenBack(earlier, channel)
        yield from self._against_exit(channel)

    def against_signature(
        self, channel: Shown[ChannelLeaf], config: ChannelConfig, node_signature: bytes
    ) -> Iterator[Accusation]:
        """Check who signed a channel's last receipt, and whom the channel pays."""
        leaf = channel.leaf
        network = self.before.network
        if channel_id(config, network) != leaf.channel_id:
            return
        is_ours = config.receiver == network.settlement and config.token == network.token
        try:
            digest = signed_digest(
                leaf.channel_id,
                leaf.sequence,
                leaf.cumulative,
                leaf.payouts,
                body=leaf.body,
                network=network,
            )
            signer = recover(digest, node_signature)
        except BadSignature:
            signer = None
        is_evidence = keccak(node_signature) == leaf.evidence
        if not is_ours or (is_evidence and signer != config.operator):
            yield Forged(channel, config, node_signature)

    def against_payouts(
        self, channel: Shown[ChannelLeaf], payouts: ChannelPayouts
    ) -> Iterator[Accusation]:
        """Check the payouts to which a channel's leaf commits."""
        if payouts.commitment != channel.leaf.payouts:
            return
        if not adds_to(payouts.opening, channel.leaf.cumulative):
            yield ChannelMissummed(channel, payouts.opening)
        index = channel.proof.index
        if index >= self.before.channels.size:
            return
        for place in range(self.before.channel(index).num_payees):
            # Out of range there: any of its lines shows how few there are.
            now = min(place, len(payouts) - 1)
            leaf = PayoutLeaf(payouts.account(now), payouts.amount(now))
            yield from self.against_payout(channel, Shown(leaf, payouts.prove(now)), place)

    def against_entries(
        self, account: Shown[AccountLeaf], entries: Opening
    ) -> Iterator[Accusation]:
        """Compare what an account's entries add up to with what it is awarded."""
        is_opened = entries.commitment == account.leaf.entries
        if is_opened and not adds_to(entries, account.leaf.amount):
            yield AccountMissummed(account, entries)

    def against_payout(
        self, channel: Shown[ChannelLeaf], payout: Shown[PayoutLeaf], place: int
    ) -> Iterator[Accusation]:
        """Compare a line of a channel's payouts with the one at `place` in the header before."""
        index = channel.proof.index
        if index >= self.before.channels.size or place >= self.before.channel(index).num_payees:
            return
        owed = self.before.show_payout(index, place)
        is_kept = (
            payout.proof.index == place
            and payout.leaf.account == owed.leaf.account
            and payout.leaf.amount >= owed.leaf.amount
        )
        if not is_kept and (payout.proof.index == place or payout.proof.size <= place):
            earlier = self.before.show_channel(index)
            yield Lowered(earlier, channel, owed_earlier=owed, owed_later=payout)

    def _find_earlier(self, channel: Shown[ChannelLeaf]) -> Shown[ChannelLeaf] | None:
        """Find the leaf before that this one must go on from, or one that now has no place."""
        size = self.before.channels.size
        if channel.proof.size < size:
            return self.before.show_channel(channel.proof.size)
        if channel.proof.index < size:
            return self.before.show_channel(channel.proof.index)
        return None

    def _against_exit(self, channel: Shown[ChannelLeaf]) -> Iterator[Accusation]:
        left_at = self.facts.left_at.get(channel.leaf.channel_id)
        if left_at is None or self.facts.posted_at <= left_at:
            return
        size = self.before.channels.size
        index = channel.proof.index
        if not size:
            yield AfterExit(channel, None)
        elif index >= size:
            yield AfterExit(channel, self.before.show_channel(0))
        elif channel.leaf.sequence > self.before.channel(index).leaf.sequence:
            yield AfterExit(channel, self.before.show_channel(index))


def find_lies(
    case: Case, after: EpochState, channels: Iterable[int] | None = None
) -> Iterator[Accusation]:
    """Find everything that convicts a header which commits to `after`.

    `channels` are the indexes to look at, all of them by default: an epoch changes few.
    """
    yield from case.against_sum(after.channels.opening)
    yield from case.against_sum(after.accounts.opening)
    for index in range(after.channels.size) if channels is None else channels:
        channel = after.show_channel(index)
        standing = after.channel(index)
        yield from case.against_channel(channel)
        yield from case.against_signature(channel, standing.config, standing.node_signature)
        yield from case.against_payouts(channel, after.payouts(index))


def adds_to(opening: Opening, amount: int) -> bool:
    """Return whether a tree adds up to this amount, which is not nothing, so that it has leaves."""
    return opening.sum == amount and opening.size != 0


def goes_on(earlier: ChannelLeaf, later: ChannelLeaf) -> bool:
    """Return whether a channel's leaf may take the place of an earlier one."""
    if earlier.channel_id != later.channel_id:
        return False
    if earlier.sequence == later.sequence:
        return (earlier.cumulative, earlier.payouts, earlier.body) == (
            later.cumulative,
            later.payouts,
            later.body,
        )
    return later.sequence > earlier.sequence and later.cumulative >= earlier.cumulative


def keeps(leaf: ChannelLeaf, promise: Promise) -> bool:
    """Return whether a channel's leaf has reached a promised receipt, or its node's other one for
    the same place: nobody else could bring the channel there.
    """
    return leaf.sequence >= promise.sequence


# ── exits ──


@dataclass(frozen=True)
class ExitRequest:
    """How a channel settles by its last receipt.

    `base` is its leaf in the header that the exit goes on from, None where it has none; `paid` are
    the payouts there, or those of the exit before; `owed` those that the receipt commits to.
    """

    config: ChannelConfig
    receipt: ChannelLeaf
    node_signature: bytes
    client_signature: bytes
    base: Shown[ChannelLeaf] | None
    paid: tuple[PayoutLeaf, ...]
    owed: tuple[PayoutLeaf, ...]


def build_exit(
    state: EpochState,
    config: ChannelConfig,
    signed: SignedReceipt,
    owed: ChannelPayouts,
    paid: ChannelPayouts | None = None,
) -> ExitRequest:
    """Build an exit by a channel's receipt, whose payouts are `owed`.

    `state` is the one of the last final header. `paid` are the payouts of an exit before this one;
    without them the exit goes on from the channel's leaf in that header.
    """
    body = decode_body(signed.body)
    index = state.find_channel(body.channel_id)
    base = None if index is None or paid is not None else state.show_channel(index)
    if paid is None:
        paid = ChannelPayouts() if index is None else state.payouts(index)
    assert owed.commitment == body.payouts, "these are not the payouts of this receipt"
    return ExitRequest(
        config=config,
        receipt=leaf_of_receipt(signed, body),
        node_signature=signed.node_signature,
        client_signature=signed.client_signature,
        base=base,
        paid=lines_of(paid),
        owed=lines_of(owed),
    )


def lines_of(payouts: ChannelPayouts) -> tuple[PayoutLeaf, ...]:
    """Return all lines of a channel's payouts."""
    return tuple(PayoutLeaf(account, amount) for account, amount in payouts.rows)
