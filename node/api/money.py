"""What faces are told of money: receipts, whose words an answer drew on, earnings, channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .verifying import Verdict

ChannelState = Literal["open", "empty", "withdrawing", "closed", "dead"]
"""Pays; has nothing in it; its money is on the way back; pays no more; holds less than is owed."""
ReceiptState = Literal["queued", "promised", "included", "final"]
PartOfReceipt = Literal["node", "client"]
Obstacle = Literal[
    "signature", "claim", "aggregator", "refused", "epoch", "window", "exit", "payout", "dead"
]
"""What unpaid money waits for: the client's signature; its voucher to be claimed; the aggregator's
promise; nothing, for the aggregator refuses it for good; a posted header; the end of the challenge
window; the channel's own way out; the claim of a payout; nothing, for the channel holds less than
is owed.
"""


@dataclass(frozen=True)
class ReceiptInfo:
    """One receipt in this daemon's ledger; `role` is the part that this node had in it.

    `is_cosigned`: its client signed it too; else the node's signature and the client's voucher
    stand for it. `started_at`: when its answer began, in Unix seconds.
    """

    digest: str
    state: ReceiptState
    role: PartOfReceipt
    adapter: str
    channel: str
    sequence: int
    tokens: int
    amount: int
    counterparty: str
    is_cosigned: bool
    epoch: int | None = None
    started_at: int = 0


@dataclass(frozen=True)
class SplitInfo:
    """One party's part of a fee; `role` is node, creator or data."""

    role: str
    address: str
    name: str
    amount: int


@dataclass(frozen=True)
class SourceInfo:
    """Where a text was given: a datanet and the contribution to it, by their digests in hex, its
    title, and which of its documents, from 1.
    """

    datanet: str
    contribution: str
    title: str
    document: int


@dataclass(frozen=True)
class SpanInfo:
    """A run [start, end) of an answer's tokens that stands in somebody's document, and how many
    bits it was more than anybody would write. Contributions and documents count from 0, in the
    adapter's own text; `source` None: the adapter does not say where it was given.
    """

    start: int
    end: int
    text: str
    contributor: str
    contribution: int
    document: int
    bits: float
    source: SourceInfo | None = None


@dataclass(frozen=True)
class CreditedInfo:
    """One contributor: the bits drawn on his text (None: not computed here), his part of what was
    drawn in ten-thousandths, and his standing weight.
    """

    name: str
    address: str
    bits: float | None
    drawn: int
    weight: int


@dataclass(frozen=True)
class QualityInfo:
    """What an adapter's creator measured of its attribution, with 95 % intervals."""

    r: float
    r_interval: tuple[float, ...]
    lds: float
    lds_interval: tuple[float, ...]
    answers: int


@dataclass(frozen=True)
class AttributedInfo:
    """What an answer drew on of one adapter; `known_bits` of it anybody would have written."""

    adapter: str
    cid: str
    lambda_eighths: int
    contributors: list[CreditedInfo]
    spans: list[SpanInfo]
    known_bits: float | None
    quality: QualityInfo | None


@dataclass(frozen=True)
class WhyInfo:
    """One receipt explained. `text` None: its tokens are not remembered here."""

    receipt: str
    verdict: Verdict
    reason: str
    tokens: int
    text: str | None
    fee: int
    split: list[SplitInfo]
    adapters: list[AttributedInfo]


@dataclass(frozen=True)
class EarningsInfo:
    """The amounts that an address has been credited (posted cumulative payout), has claimed, and
    holds on the chain.
    """

    address: str
    credited: int
    claimed: int
    balance: int


@dataclass(frozen=True)
class StuckInfo:
    """Money that was earned here and is not paid yet, and what it waits for.

    `unit` is a receipt's digest, a channel's id or an account, whichever waits. `amount`: a
    receipt's fee, which all its shares are paid of; what a channel lacks; what an account is due.
    `until`: when the wait ends, in Unix seconds, where that is known.
    """

    unit: str
    channel: str | None
    amount: int
    waits_for: Obstacle
    detail: str
    until: int | None = None


@dataclass(frozen=True)
class ChannelInfo:
    """One payment channel; `role` is this daemon's part in it, `counterparty` the other's address.

    `balance`: what was put in and not paid back. `spent`: what receipts cost. `vouched`: what was
    promised, cumulative like `spent`. `claimed`: what the node took on the chain. `reserved`: for
    answers without a receipt. `free`: what is left. `available_at`: when a withdrawal ends, in Unix
    seconds.
    """

    channel: str
    role: PartOfReceipt
    counterparty: str
    state: ChannelState
    balance: int
    spent: int
    vouched: int
    claimed: int
    reserved: int
    free: int
    available_at: int | None = None


@dataclass(frozen=True)
class PolicyInfo:
    """How fees are divided under a version of the network's parameters: parts in basis points, the
    least fee for each share, and how many eighths follow what an answer drew on, at most.
    """

    version: int
    node_bps: int
    creator_bps: int
    least_fee: int
    most_lambda: int


@dataclass(frozen=True)
class PaidInInfo:
    """In what a network's answers are paid: the chain, addresses of contracts in hex, the domain in
    which the token's transfers are signed, the least deposit that this node relays, and how a fee
    may be divided now.
    """

    chain_id: int
    settlement: str
    token: str
    channels: str
    token_name: str
    token_version: str
    min_deposit: int
    policies: tuple[PolicyInfo, ...]
