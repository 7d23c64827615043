"""Settles this node's channels without an aggregator, when there is none: the way out.

    the aggregator is convicted or silent → (dismissed) → each channel's last receipt goes to the
    contract itself, which pays everybody whom the receipt names

Only what no header has is settled so. What only this node signed waits for the contract's window,
in which the client may show better. A channel that left once settles itself for ever, whoever holds
the office: its last receipts are paid here, and nothing more is sold in it once headers settle the
others again. Knows no demand and no proof of a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from proofs.attribution.shares import AdapterTerms, terms_of
from proofs.chain.answers import Block
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.views import LATEST
from proofs.cocktail import parse_adapter
from proofs.court import build_exit, lines_of
from proofs.ledger import Outbox
from proofs.payouts import NO_PAYOUTS, ChannelPayouts
from proofs.policies import Policies
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    decode_body,
    derive_shares,
)
from proofs.state import EpochState

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.channels import ChannelRow
from .book import ChannelBook
from .claiming import Claims
from .heads import Heads
from .mirror import Mirror
from .published import Published

CHAIN_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Settlement:
    """What one channel can be settled by: its last receipt, and the payouts after it."""

    row: ChannelRow
    signed: SignedReceipt
    owed: ChannelPayouts

    @property
    def sequence(self) -> int:
        """Return the receipt's place in its channel."""
        return decode_body(self.signed.body).sequence


class Exits:
    """The exits of one daemon's channels."""

    def __init__(
        self,
        chain: ChainClient,
        book: ChannelBook,
        outbox: Outbox,
        mirror: Mirror,
        telemetry: Telemetry,
        *,
        claims: Claims,
        published: Published,
        operator: bytes,
        on_aggregator: Callable[[bytes], None],
        policies: Callable[[], Policies],
    ) -> None:
        self._policies = policies
        self._on_aggregator = on_aggregator
        self._claims = claims
        self._published = published
        self._chain = chain
        self._settlement = chain.settlement
        self._book = book
        self._outbox = outbox
        self._mirror = mirror
        self._telemetry = telemetry
        self._operator = operator
        self._is_vacant = False
        self._is_under_way = False  # something waits for the mirror, a claim or a window
        self._left: set[bytes] = set()
        self._said: set[bytes] = set()  # channels of which it was told that they cannot leave

    def has_left(self, channel_id: bytes) -> bool:
        """Return whether a channel settles itself, as far as was seen, while headers settle the
        others. In a vacancy none is better than another.
        """
        return channel_id in self._left and not self._is_vacant

    async def run(self, heads: Heads, interval_s: float) -> None:
        """Look whether channels must leave whenever there is something new, until cancelled."""
        turns = heads.turns(interval_s, lambda: self._is_under_way)
        while True:
            head = await turns.next()
            with survive(self._telemetry, "exits"):
                await in_thread(self._look, head, deadline_s=CHAIN_DEADLINE_S)
                turns.looked()

    def _look(self, head: Block | None) -> None:
        office = self._settlement.read_office()
        now = (head or self._chain.rpc.get_block(LATEST)).timestamp
        self._is_vacant = office.aggregator is None
        is_silent = False
        if office.aggregator is not None:
            self._on_aggregator(office.aggregator)
            is_silent = now > office.silent_from
            if is_silent and self._can_leave():
                self._dismiss()
                self._is_vacant = True
        due = list(self._due(self._mirror.history.state))
        self._note_left([one.row.channel_id for one in due], now)
        leaving = [one for one in due if self._is_vacant or one.row.channel_id in self._left]
        self._is_under_way = bool(leaving) or is_silent
        everybody = self._is_vacant and self._can_leave()
        for one in leaving:
            if everybody or one.row.channel_id in self._left:
                self._leave(one, now)

    def _dismiss(self) -> None:
        try:
            self._settlement.dismiss()
        except ContractReverted as error:
            if error.error != "OfficeVacant":  # somebody was faster
                raise
        else:
            self._telemetry.log("exits: the aggregator was silent for too long and is dismissed")

    def _note_left(self, channels: Sequence[bytes], now: int) -> None:
        unknown = [channel for channel in channels if channel not in self._left]
        if unknown:
            left = self._settlement.left_at_many(unknown)
            self._left |= {channel for channel, at in left.items() if at < now}

    def _can_leave(self) -> bool:
        """Return whether the last header is final and this node's mirror stands at it."""
        state = self._settlement.read()
        here = self._mirror.history.state
        if here.epoch != state.epoch or (here.header and here.header.hash != state.header_hash):
            return False
        posted = self._mirror.last_posted()
        return here.epoch == 0 or (posted is not None and self._settlement.is_final(posted))

    def _due(self, state: EpochState) -> Iterator[Settlement]:
        """Find the channels that owe more than the last header has of them."""
        for row in self._book.of_operator(self._operator):
            tip = state.find_tip(row.channel_id)
            for one in self._settlements(row):
                if one.sequence > (tip.sequence if tip else 0):
                    yield one

    def _settlements(self, row: ChannelRow) -> Iterator[Settlement]:
        """Give the last receipt that both signed, and the last whose client never came."""
        entry = self._outbox.find(row.previous) if row.sequence else None
        if entry is not None:
            yield Settlement(row, entry.signed, ChannelPayouts(row.payouts))
        position = row.position
        last: Settlement | None = None
        for draft in row.drafts:
            if not draft.is_sent:
                break
            position = draft.follow(position)
            signed = SignedReceipt(draft.body, draft.node_signature, NO_SIGNATURE)
            last = Settlement(row, signed, position.payouts)
        if last is not None:
            yield last

    def _leave(self, one: Settlement, now: int) -> None:
        channel_id = one.row.channel_id
        if not self._claims.is_claimed(channel_id, one.owed.total):
            trio.from_thread.run_sync(self._claims.claim_soon)
            return
        before = self._settlement.find_exit(channel_id)
        if before is not None and before.sequence >= one.sequence:
            return
        if before is None and not self._can_leave():
            return
        state = self._mirror.history.state
        paid = None if before is None else self._find_payouts(one.row, before.payouts, state)
        if before is not None and paid is None:
            if channel_id not in self._said:
                self._said.add(channel_id)
                self._telemetry.log(
                    f"exits: channel {channel_id.hex()[:12]} left by receipt {before.sequence}, and"
                    " a receipt up to it, or the manifest of one, is not here: it cannot leave"
                    " again"
                )
            return
        request = build_exit(state, one.row.config, one.signed, one.owed, paid)
        pending = self._settlement.find_pending_exit(channel_id)
        try:
            if pending is None or pending.sequence < one.sequence:
                self._settlement.exit(request, self._mirror.last_posted())
                self._telemetry.count("exits_begun")
            elif pending.sequence == one.sequence and pending.due_at <= now:
                self._settlement.finish_exit(channel_id, request.paid, lines_of(one.owed))
        except ContractReverted as error:
            self._telemetry.log(f"exits: channel {channel_id.hex()[:12]} cannot leave now: {error}")
            return
        after = self._settlement.find_exit(channel_id)
        if after is not None and after.sequence == one.sequence:
            self._left.add(channel_id)
            self._telemetry.count("exits_paid")
            self._telemetry.log(
                f"exits: channel {channel_id.hex()[:12]} settled up to receipt {one.sequence}"
            )

    def _find_payouts(
        self, row: ChannelRow, commitment: bytes, state: EpochState
    ) -> ChannelPayouts | None:
        """Work out the payouts that an earlier exit paid, whoever made it; None where something is
        missing.

        This node signed every receipt of its channel, and no header moves a channel that has left:
        so they are found between the last header's leaf and the newest receipt.
        """
        tip = state.find_tip(row.channel_id)
        payouts = tip.payouts if tip else NO_PAYOUTS
        for receipt, terms in self._receipts_after(row, tip.sequence if tip else 0, state):
            if payouts.commitment == commitment:
                break
            if terms is None and receipt.adapter != BARE_BASE:
                return None
            policy = self._policies().of(receipt.parameters)
            payouts = payouts.award(derive_shares(receipt, terms, policy), receipt.amount)
        return payouts if payouts.commitment == commitment else None

    def _receipts_after(
        self, row: ChannelRow, sequence: int, state: EpochState
    ) -> list[tuple[Receipt, AdapterTerms | None]]:
        """List a channel's receipts after this one, with their adapters' terms, oldest first."""
        found = [(decode_body(draft.body), draft.terms) for draft in reversed(row.drafts)]
        entry = self._outbox.find(row.previous)
        while entry is not None:
            receipt = decode_body(entry.signed.body)
            if receipt.sequence <= sequence:
                break
            found.append((receipt, self._find_terms(receipt.adapter, state)))
            entry = self._outbox.find(receipt.previous)
        return found[::-1]

    def _find_terms(self, adapter: bytes, state: EpochState) -> AdapterTerms | None:
        """Find what an adapter's manifest says, without asking anybody."""
        if adapter in state.adapters:
            return state.adapters[adapter]
        data = self._published.find(adapter)
        return None if data is None else terms_of(parse_adapter(data))
