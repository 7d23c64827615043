"""Tells of everything that this daemon earned and was not paid yet what it waits for.

    draft → receipt → its voucher claimed → promised → in a header → final → the payout claimed

Without an aggregator a channel's own exit takes the place of the last four. Claims nothing and
sends nothing; the deciding (`list_stuck`) is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proofs.chain.client import ChainClient
from proofs.chain.structs import ChannelExit, ChannelState, Office, PendingExit
from proofs.chain.views import LATEST
from proofs.hextext import to_hex
from proofs.ledger import OutboxEntry, OutboxState
from proofs.receipt import Receipt, decode_body, digest_of

from ..api.money import Obstacle, StuckInfo
from ..wire.channels import ChannelRow


class Known(Protocol):
    """What the daemon's other parts know of one receipt or channel."""

    def is_claimed(self, channel_id: bytes, cumulative: int) -> bool:
        """Whether a channel's vouchers are claimed so far, as deep as it must be."""

    def why_held(self, channel_id: bytes) -> str | None:
        """Why a channel's voucher was not claimed last time."""

    def is_refused(self, digest: bytes) -> bool:
        """Whether the aggregator refused a receipt for good."""

    def last_words(self, digest: bytes) -> str | None:
        """What the aggregator said last of a receipt that it did not promise."""

    def final_at(self, epoch: int) -> int | None:
        """When an epoch's challenge window ends, in Unix seconds."""


@dataclass(frozen=True)
class ChainFacts:
    """What the chain says of these channels and accounts, at `now` by its own clock.

    `awarded`: what headers award an account, final or not; `paid`: what it was paid under them.
    """

    now: int
    office: Office
    channels: Mapping[bytes, ChannelState] = field(default_factory=dict)
    exits: Mapping[bytes, ChannelExit] = field(default_factory=dict)
    pending_exits: Mapping[bytes, PendingExit] = field(default_factory=dict)
    awarded: Mapping[bytes, int] = field(default_factory=dict)
    claimable: Mapping[bytes, int] = field(default_factory=dict)
    paid: Mapping[bytes, int] = field(default_factory=dict)


def read_facts(
    chain: ChainClient,
    channels: Sequence[bytes],
    awarded: Mapping[bytes, int],
    claimable: Mapping[bytes, int],
) -> ChainFacts:
    """Ask the chain. Blocks; ChainError."""
    settlement = chain.settlement
    left = settlement.left_at_many(channels) if channels else {}
    exits = {channel: settlement.find_exit(channel) for channel in left}
    pending = {channel: settlement.find_pending_exit(channel) for channel in channels}
    return ChainFacts(
        now=chain.rpc.get_block(LATEST).timestamp,
        office=settlement.read_office(),
        channels=dict(zip(channels, chain.channels.read_many(channels, LATEST), strict=True)),
        exits={channel: one for channel, one in exits.items() if one is not None},
        pending_exits={channel: one for channel, one in pending.items() if one is not None},
        awarded=awarded,
        claimable=claimable,
        paid={account: settlement.paid_to(account) for account in awarded},
    )


def list_stuck(
    rows: Sequence[ChannelRow],
    entries: Sequence[OutboxEntry],
    facts: ChainFacts,
    known: Known,
    *,
    grace_s: float,
) -> list[StuckInfo]:
    """List what is not paid yet: drafts and receipts in their order, then channels that cannot pay,
    then accounts.
    """
    return [
        *_of_drafts(rows, grace_s),
        *(_of_receipt(entry, facts, known) for entry in _unpaid(entries, facts)),
        *_of_dead_channels(rows, facts),
        *_of_accounts(facts),
    ]


def _of_drafts(rows: Sequence[ChannelRow], grace_s: float) -> Iterator[StuckInfo]:
    for row in rows:
        for draft in row.drafts:
            if not draft.is_sent:
                yield StuckInfo(
                    unit=digest_of(draft.body).hex(),
                    channel=row.channel_id.hex(),
                    amount=decode_body(draft.body).amount,
                    waits_for="signature",
                    detail="its client may still sign it; then its voucher stands for it",
                    until=draft.made_at + round(grace_s),
                )


def _unpaid(entries: Sequence[OutboxEntry], facts: ChainFacts) -> Iterator[OutboxEntry]:
    """Leave out what a channel's exit has paid."""
    for entry in entries:
        receipt = decode_body(entry.signed.body)
        left = facts.exits.get(receipt.channel_id)
        if left is None or left.sequence < receipt.sequence:
            yield entry


def _of_receipt(entry: OutboxEntry, facts: ChainFacts, known: Known) -> StuckInfo:
    receipt = decode_body(entry.signed.body)

    def say(waits_for: Obstacle, detail: str, until: int | None = None) -> StuckInfo:
        channel = receipt.channel_id.hex()
        return StuckInfo(
            entry.digest.hex(),
            channel,
            receipt.amount,
            waits_for,
            detail=detail,
            until=until,
        )

    if entry.state == OutboxState.INCLUDED:
        assert entry.epoch is not None, "what is included is in an epoch"
        detail = f"in epoch {entry.epoch}, which can still be challenged"
        return say("window", detail, known.final_at(entry.epoch))
    if not known.is_claimed(receipt.channel_id, receipt.cumulative):
        return say("claim", _why_unclaimed(receipt, facts, known))
    if facts.office.aggregator is None or receipt.channel_id in facts.exits:
        pending = facts.pending_exits.get(receipt.channel_id)
        detail = "there is no aggregator: its channel settles by itself"
        return say("exit", detail, pending.due_at if pending else None)
    if entry.promise is not None:
        is_late = entry.promise.deadline < facts.now
        detail = (
            "the aggregator's promise is overdue: it is demanded in court"
            if is_late
            else ("the aggregator promised it a header")
        )
        return say("epoch", detail, entry.promise.deadline)
    words = known.last_words(entry.digest)
    if known.is_refused(entry.digest):
        return say("refused", f"the aggregator takes it never: {words}")
    return say("aggregator", f"it says: {words}" if words else "it was not asked yet")


def _why_unclaimed(receipt: Receipt, facts: ChainFacts, known: Known) -> str:
    state = facts.channels.get(receipt.channel_id)
    if state is not None and state.balance < receipt.cumulative:
        return f"its channel holds {state.balance}, less than the {receipt.cumulative} owed by then"
    if state is not None and state.total_claimed >= receipt.cumulative:
        return "its voucher is claimed, and not deep enough in the chain yet"
    return known.why_held(receipt.channel_id) or "its voucher is claimed in the next round"


def _of_dead_channels(rows: Sequence[ChannelRow], facts: ChainFacts) -> Iterator[StuckInfo]:
    for row in rows:
        state = facts.channels.get(row.channel_id)
        if state is not None and state.balance < row.owed:
            channel = row.channel_id.hex()
            detail = f"the channel holds {state.balance} and owes {row.owed}: the rest is lost"
            yield StuckInfo(channel, channel, row.owed - state.balance, "dead", detail)


def _of_accounts(facts: ChainFacts) -> Iterator[StuckInfo]:
    for account, awarded in facts.awarded.items():
        paid = facts.paid.get(account, 0)
        due = facts.claimable.get(account, 0) - paid
        if due > 0:
            detail = f"awarded {awarded} in all, paid {paid}; `lorikeet claim --for` has it paid"
            yield StuckInfo(to_hex(account), None, due, "payout", detail)
