"""The node's side of the counter: finds the channel that shall pay, asks the chain about it, and
keeps what the protocol's machine wants kept. Takes no decision about vouchers or receipts
(wire/channels.py does).

A voucher reserves nothing on chain, so a channel is read again while it is used, and is worth what
the chain says it holds. Nothing new is accepted while a withdrawal is under way or once less is
left than is owed, and what is owed is claimed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from proofs.chain.errors import ChainError
from proofs.chain.views import LATEST
from proofs.errors import ProofError
from proofs.hextext import to_hex
from proofs.offers import Offer, Served
from proofs.voucher import ChannelConfig, Voucher, channel_id, check_channel

from ..api.money import ChannelInfo, ChannelState
from ..errors import BadRequest, NoChannel, NodeError, PaymentRequired
from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.channels import ChannelFacts, ChannelRow, PayeeChannel, Persist
from ..wire.notary import Notary
from .addresses import address_of_peer
from .book import ChannelBook, Keeper, OnReceipt
from .vault import ChannelOnChain

CHAIN_DEADLINE_S = 20.0
MIN_WITHDRAW_DELAY_S = 900
MAX_TABS = 4096

TICK_S = 5.0

T = TypeVar("T")


@dataclass
class Tab:
    """One channel that pays this node, and what keeps its requests out of one another's way.

    `turn`: who has it shows drafts. `visits`: how many streams use it now. `seen`: what the chain
    said last.
    """

    channel: PayeeChannel
    turn: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1))
    reading: trio.Lock = field(default_factory=trio.Lock)
    visits: int = 0
    seen: ChannelOnChain | None = None


class Chain(Protocol):
    """What a payee reads (proofs.chain's Channels). Every call blocks."""

    def read(self, channel_id: bytes, shallow: int = 0) -> ChannelOnChain:
        """A channel as whoever is paid from it should see it."""

    def read_many(
        self, channel_ids: Sequence[bytes], block: str | int | None = None
    ) -> Sequence[ChannelOnChain]:
        """Channels' states at a block."""


class Till:
    """All channels that pay this node.

    `on_receipt` gets every receipt, with the channel it was paid in: one with both signatures at
    once, one that its client let lie after `grace_s`, and again if the client signs later.
    `on_withdrawal` hears that a client wants its money back. `has_left` says whether a channel
    settles itself by exits, which cost more than most answers. `shallow` of a deposit counts before
    it is so deep in the chain that it stays. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        notary: Notary,
        book: ChannelBook,
        chain: Chain,
        on_receipt: OnReceipt,
        *,
        telemetry: Telemetry,
        on_withdrawal: Callable[[], None],
        has_left: Callable[[bytes], bool],
        grace_s: float,
        shallow: int,
        clock: Callable[[], float],
    ) -> None:
        self._has_left = has_left
        self._notary = notary
        self._book = book
        self._chain = chain
        self._shallow = shallow
        self._keeper = Keeper(book, on_receipt)
        self._telemetry = telemetry
        self._on_withdrawal = on_withdrawal
        self._grace_s = grace_s
        self._clock = clock
        self._tabs: dict[bytes, Tab] = {}
        self.operator = notary.address
        for row in book.of_operator(self.operator):  # what a restart left
            if any(not draft.is_sent for draft in row.drafts):
                self._tabs[row.channel_id] = self._new_tab(row)

    def open(self, peer_id: str, client: bytes, config: ChannelConfig) -> Tab:
        """Find the channel that shall pay; NoChannel or BadRequest says why it cannot.

        What it holds is not read here.
        """
        if client != address_of_peer(peer_id):
            raise BadRequest(
                "the client's address is not the one of the key that opened this stream"
            )
        return self.open_for(client, config)

    def open_for(self, client: bytes, config: ChannelConfig) -> Tab:
        """The same for a client that no stream names; who signs the channel's vouchers is it."""
        self._check(client, config)
        channel = channel_id(config, self._notary.network)
        if self._has_left(channel):
            raise NoChannel(
                "the channel has settled by itself, without an aggregator; open another"
            )
        if channel not in self._tabs:
            if len(self._tabs) >= MAX_TABS:
                self._forget_idle()
            row = self._book.find(channel) or ChannelRow(channel, self.operator, config)
            self._tabs[channel] = self._new_tab(row)
        return self._tabs[channel]

    def find(self, channel: bytes) -> Tab | None:
        """Find a channel that has paid here, None for any other."""
        if channel in self._tabs:
            return self._tabs[channel]
        row = self._book.find(channel)
        is_ours = row is not None and row.operator == self.operator
        return self._new_tab(row) if row is not None and is_ours else None

    def check_voucher(self, voucher: Voucher, config: ChannelConfig) -> None:
        """Raise PaymentRequired unless the channel's voucher signer made this voucher for it."""
        try:
            self._notary.check_voucher(voucher, config)
        except ProofError as error:
            raise PaymentRequired(f"the voucher is not valid: {error}") from error

    def sign_sale(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale."""
        return self._notary.sign_sale(said)

    def has_paid(self, client: bytes) -> bool:
        """Return whether this client has paid for an answer here, as far as is still in memory."""
        rows = (tab.channel.row for tab in self._tabs.values())
        return any(row.config.voucher_signer == client and row.cumulative for row in rows)

    async def run(self, interval_s: float = TICK_S) -> None:
        """Take what clients let lie for too long without their signatures, until cancelled."""
        while True:
            with survive(self._telemetry, "till"):
                self._keeper.keep_late()
                self.tick()
            await trio.sleep(interval_s)

    def tick(self) -> None:
        """Write down the receipts that have become due."""
        now = self._clock()
        for tab in self._tabs.values():
            if tab.channel.due_at <= now:
                self.keep(*tab.channel.tick(now))

    def keep(self, *persists: Persist) -> None:
        """Write a channel down, and with it the receipts that have just become some; on the disk
        when this returns.
        """
        self._keeper.keep(*persists)

    def keep_late(self, tab: Tab) -> None:
        """See that all that is known of a channel is on the disk, before anything is said of it."""
        self._keeper.keep_late(tab.channel.channel_id)

    async def read(self, tab: Tab, at: float) -> None:
        """Tell the channel what the chain says at `at` or later; NodeError when it says nothing."""
        async with tab.reading:
            await trio.sleep_until(at)
            if tab.channel.read_at < at:
                await self._read_now(tab)

    async def channels(self) -> list[ChannelInfo]:
        """Every channel that ever paid this node, newest first; NodeError when the chain says
        nothing.
        """
        rows = self._book.of_operator(self.operator)[::-1]
        ids = [row.channel_id for row in rows]
        states = await self._ask_chain(self._chain.read_many, ids, LATEST) if rows else []
        return [_describe(row, state) for row, state in zip(rows, states, strict=True)]

    def check(self) -> None:
        """Raise AssertionError unless the invariants of every channel hold."""
        for tab in self._tabs.values():
            tab.channel.check()

    def _check(self, client: bytes, config: ChannelConfig) -> None:
        try:
            check_channel(config, self.operator, client, self._notary.network)
        except ProofError as error:
            raise NoChannel(str(error)) from error
        if config.voucher_signer != client:
            raise NoChannel("the channel's vouchers are signed by another key than the client's")
        if config.withdraw_delay < MIN_WITHDRAW_DELAY_S:
            raise NoChannel(
                f"the channel's withdraw delay of {config.withdraw_delay} s is below"
                f" {MIN_WITHDRAW_DELAY_S} s"
            )

    async def _read_now(self, tab: Tab) -> None:
        channel = tab.channel
        state = await self._ask_chain(self._chain.read, channel.channel_id, self._shallow)
        if state.total_claimed > channel.row.owed:  # our books of it are lost, or another home's
            raise NoChannel(
                f"{state.total_claimed} of the channel was claimed by an earlier life of this node,"
                " which knows nothing of it now; open another"
            )
        tab.seen = state
        was_good = not (channel.is_withdrawing or channel.is_dead)
        facts = ChannelFacts(state.balance, bool(state.withdraw_requested_at))
        channel.note(facts, trio.current_time())
        if was_good and (channel.is_withdrawing or channel.is_dead):
            self._on_withdrawal()

    async def _ask_chain(self, read: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(read, *values, deadline_s=CHAIN_DEADLINE_S)
        except (trio.TooSlowError, ChainError) as error:
            raise NodeError(
                f"the chain did not say what the channel holds ({error}); ask again"
            ) from error

    def _new_tab(self, row: ChannelRow) -> Tab:
        return Tab(PayeeChannel(row, self._notary, grace_s=self._grace_s))

    def _forget_idle(self) -> None:
        for channel, tab in list(self._tabs.items()):
            is_due = tab.channel.due_at < math.inf or self._keeper.is_late(channel)
            if not tab.visits and not is_due:
                del self._tabs[channel]


def _describe(row: ChannelRow, state: ChannelOnChain) -> ChannelInfo:
    asked_at = state.withdraw_requested_at
    if state.balance < row.owed:
        word: ChannelState = "dead"
    elif asked_at:
        word = "withdrawing"
    else:
        word = "open" if state.balance else "empty"
    reserved = row.owed - row.cumulative
    return ChannelInfo(
        channel=row.channel_id.hex(),
        role="node",
        counterparty=to_hex(row.config.payer),
        state=word,
        balance=state.balance,
        spent=row.cumulative,
        vouched=row.voucher,
        claimed=state.total_claimed,
        reserved=reserved,
        free=max(min(state.balance, row.voucher) - row.owed, 0),
        available_at=asked_at + row.config.withdraw_delay if asked_at else None,
    )
