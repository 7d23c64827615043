"""The client's side of the counter: finds a channel for each node it pays, deposits in steps as it
is used up, takes back what lies idle, and keeps what the protocol's machine wants kept. Takes no
decision about vouchers or receipts (wire/channels.py does).

    row, nothing in it ──first offer──▶ deposits ──idle, closed or asked for──▶ withdrawn

What a vanished node may still claim stays reserved until that node answers again, or the channel
has been idle for long. A channel's salt is its node's operator and a number that counts up from 0,
so whoever has the payer's key finds all of its channels on the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import trio

from proofs.hextext import to_hex
from proofs.receipt import VerifiedReceipt
from proofs.voucher import SALT_NONCE_BYTES, ChannelConfig, channel_id, operator_salt

from ..api.money import ChannelInfo, ChannelState
from ..errors import BadRequest, NoChannel, PaymentRequired
from ..survive import survive
from ..telemetry import Telemetry
from ..wire.channels import ChannelRow, Funds, PayerChannel, Persist
from ..wire.notary import Notary
from .addresses import address_of_peer
from .book import ChannelBook, Keeper
from .vault import ChannelOnChain, NothingSent, Vault

WITHDRAW_DELAY_S = 24 * 3600
DEPOSIT_DOUBT_S = 2 * 3600  # a deposit that was not seen by then is not valid any more
FREE_DEADLINE_S = 20.0  # how long a request waits for what others reserved and may not spend
USED_STEP_S = 3600  # how exactly it is written down when a channel was used
TIDY_INTERVAL_S = 600.0
MAX_CHANNELS_IN_DOUBT = 4  # with one node: money in so many others, and no new one is opened
MAX_NUMBERS_TRIED = 256


@dataclass
class Pocket:
    """One channel that this daemon pays from.

    `filling`: two requests do not deposit for the same need. `changed`: its row is another one.
    `visits`: how many streams use it now.
    """

    channel: PayerChannel
    visits: int = 0
    filling: trio.Lock = field(default_factory=trio.Lock)
    changed: trio.Event = field(default_factory=trio.Event)


class Purse:
    """All channels that this daemon pays from. `clock` gives Unix seconds.

    `payer` holds the money; without one the key does that signs the vouchers.
    """

    def __init__(
        self,
        notary: Notary,
        book: ChannelBook,
        vault: Vault,
        on_receipt: Callable[[VerifiedReceipt], None],
        *,
        telemetry: Telemetry,
        idle_s: float,
        clock: Callable[[], float],
        payer: bytes | None = None,
    ) -> None:
        self._notary = notary
        self._payer = payer or notary.address
        self._book = book
        self._vault = vault
        self._keeper = Keeper(book, lambda receipt, _: on_receipt(receipt))
        self._telemetry = telemetry
        self._idle_s = idle_s
        self._clock = clock
        self._pockets: dict[bytes, Pocket] = {}
        self._locks: dict[bytes, trio.Lock] = {}

    # --- for requests ---

    async def pocket(self, peer_id: str) -> Pocket:
        """The channel that pays this node; a new one, with nothing in it, when there is none that
        can be used. NoChannel says why it cannot.
        """
        operator = address_of_peer(peer_id)
        async with self._locks.setdefault(operator, trio.Lock()):
            if operator not in self._pockets:
                row = await self._find(operator) or await self._open(operator)
                self._pockets[operator] = Pocket(PayerChannel(row, self._notary))
            pocket = self._pockets[operator]
            pocket.channel.low = self._vault.low(pocket.channel.row.cumulative)
            self._note_use(pocket.channel)
            return pocket

    def has_channel(self, peer_id: str) -> bool:
        """Return whether there is a channel with money in it that pays this node."""
        operator = address_of_peer(peer_id)
        pocket = self._pockets.get(operator)
        rows = [pocket.channel.row] if pocket else self._book.of_operator(operator)
        return any(row.locked > 0 and not row.funds.is_closed for row in rows)

    def forget(self, pocket: Pocket) -> None:
        """The node and we do not agree about this channel any more: its rest is taken back, and the
        next request pays from another one.
        """
        row = pocket.channel.row
        if self._pockets.get(row.operator) is pocket:
            del self._pockets[row.operator]
        self.keep(pocket.channel.note(msgspec.structs.replace(row.funds, is_closed=True)))

    def keep(self, *persists: Persist) -> None:
        """Write a channel down, and with it the receipts that we have just signed; on the disk when
        this returns.
        """
        self._keeper.keep(*persists)
        for persist in persists:
            if pocket := self._pockets.get(persist.row.operator):
                pocket.changed.set()
                pocket.changed = trio.Event()

    def keep_late(self, pocket: Pocket) -> None:
        """See that all that is known of a channel is on the disk, before anything is said in it."""
        self._keeper.keep_late(pocket.channel.channel_id)

    async def deposit(self, pocket: Pocket, key: int, limit: int) -> None:
        """Deposit what request `key` misses to spend up to `limit`, or the next step where little
        is free. Where no more may be deposited, wait for what other requests reserved and did not
        spend.

        PaymentRequired when more would lie in channels than the operator allows.
        """
        until = trio.current_time() + FREE_DEADLINE_S
        while pocket.channel.missing(key, limit) or not pocket.filling.locked():
            changed = pocket.changed
            try:
                async with pocket.filling:
                    await self._top_up(pocket.channel, key, limit)
                return
            except PaymentRequired:
                left_s = until - trio.current_time()
                if left_s <= 0 or not pocket.channel.is_shared(key):
                    raise
            with trio.move_on_after(left_s):
                await changed.wait()

    async def _top_up(self, channel: PayerChannel, key: int, limit: int) -> None:
        """Deposit once. The caller holds the pocket's lock, so nobody else looks or deposits."""
        try:
            if channel.row.funds.under_way:
                await self._look(channel)
            missing = channel.missing(key, limit)
            if missing or channel.is_low:
                await self._fill(channel, missing)
        except (NoChannel, PaymentRequired):
            if channel.missing(key, limit):
                raise

    def check(self) -> None:
        """Raise AssertionError unless the invariants of every channel hold."""
        for pocket in self._pockets.values():
            pocket.channel.check()

    # --- for the operator ---

    async def channels(self) -> list[ChannelInfo]:
        """Every channel that this daemon ever paid from, newest first."""
        rows = self._rows()[::-1]
        states = await self._vault.read_many([row.channel_id for row in rows]) if rows else []
        return [_describe(row, state) for row, state in zip(rows, states, strict=True)]

    async def withdraw(self, channel: bytes | None) -> list[ChannelInfo]:
        """Take back what is free in one channel, or in all; none of them is paid from any more.

        Money comes once the channel's delay is over; the daemon sees to it. BadRequest for a
        channel that is not ours or in use.
        """
        rows = [row for row in self._rows() if channel in (None, row.channel_id)]
        if not rows:
            raise BadRequest("there is no such channel here; `lorikeet channels` lists them")
        if channel is not None and self._is_used(rows[0]):
            raise BadRequest("a request is paid from this channel now; try again when it has ended")
        rows = [self._close(row) for row in rows if not self._is_used(row)]
        return [_describe(row, await self._take_back(row)) for row in rows]

    async def run(self, interval_s: float = TIDY_INTERVAL_S) -> None:
        """Take back, every interval, what lies in closed and idle channels, until cancelled."""
        while True:
            with survive(self._telemetry, "purse"):
                self._keeper.keep_late()
                await self.tidy()
            await trio.sleep(interval_s)

    async def tidy(self) -> None:
        """Take one step towards getting idle money back."""
        for row in self._rows():
            if not row.locked or self._is_used(row):
                continue
            if row.funds.is_closed or self._is_idle(row):
                try:
                    await self._take_back(self._close(row))
                except NoChannel as error:
                    self._telemetry.log(
                        f"purse: nothing was taken out of channel {row.channel_id.hex()[:12]} now:"
                        f" {error}"
                    )

    # --- finding and opening ---

    async def _find(self, operator: bytes) -> ChannelRow | None:
        """The channel of this node that can be used and has most in it."""
        rows = [row for row in self._book.of_operator(operator) if not row.funds.is_closed]
        states = await self._vault.read_many([row.channel_id for row in rows]) if rows else []
        found = []
        for row, state in zip(rows, states, strict=True):
            row = self._seen(row, state)
            if not state.withdraw_requested_at and state.balance >= row.cumulative:
                found.append(row)
        return max(found, key=lambda row: row.locked, default=None)

    async def _open(self, operator: bytes) -> ChannelRow:
        """The next number's channel that was never used."""
        rows = self._book.of_operator(operator)
        if sum(row.locked > 0 for row in rows) >= MAX_CHANNELS_IN_DOUBT:
            raise NoChannel(
                f"money lies in {MAX_CHANNELS_IN_DOUBT} channels to this node that it does not take"
                " any more; it comes back (`lorikeet channels`), until then no other is opened"
            )
        first = 1 + max((_number(row) for row in rows), default=-1)
        for number in range(first, first + MAX_NUMBERS_TRIED):
            row = self._new_row(operator, number)
            state = await self._vault.read(row.channel_id)
            if not (state.balance or state.total_claimed):
                self._book.save(row)
                return row
            self._adopt(row, state)
        raise NoChannel(f"{MAX_NUMBERS_TRIED} channels of this key to the node were used before")

    def _new_row(self, operator: bytes, number: int) -> ChannelRow:
        own = self._notary.address
        network = self._notary.network
        config = ChannelConfig(
            self._payer,
            own,
            network.settlement,
            operator,
            network.token,
            withdraw_delay=WITHDRAW_DELAY_S,
            salt=operator_salt(operator, number.to_bytes(SALT_NONCE_BYTES, "big")),
        )
        return ChannelRow(channel_id(config, network), operator, config)

    def _adopt(self, row: ChannelRow, state: ChannelOnChain) -> None:
        """Keep a channel of an earlier life of this key: where its receipts stand is not known, so
        it is closed, and what was not claimed is taken back.
        """
        self._telemetry.log(f"purse: channel {row.channel_id.hex()[:12]} is ours from before")
        funds = Funds(deposit=state.balance, is_closed=True)
        self._book.save(msgspec.structs.replace(row, cumulative=state.total_claimed, funds=funds))

    # --- money in ---

    async def _fill(self, channel: PayerChannel, missing: int) -> None:
        """Raise the deposit by at least `missing`. The caller holds the pocket's lock."""
        row = channel.row
        amount = self._vault.plan(
            missing,
            spent=row.cumulative,
            unspent=row.locked,
            locked=sum(each.locked for each in self._rows()),
        )
        if not amount:
            return
        self._note(channel, under_way=row.funds.under_way + amount, sent_at=self._now())
        try:
            await self._vault.deposit(channel.config, amount)
        except NothingSent:
            self._note(channel, under_way=channel.row.funds.under_way - amount)
            raise
        funds = channel.row.funds
        self._note(
            channel, deposit=funds.deposit + amount, under_way=max(funds.under_way - amount, 0)
        )

    async def _look(self, channel: PayerChannel) -> None:
        """See whether what was under way has come."""
        state = await self._vault.read(channel.channel_id)
        self.keep(channel.note(_seen_funds(channel.row.funds, state, self._now())))

    def _seen(self, row: ChannelRow, state: ChannelOnChain) -> ChannelRow:
        """Write down what the chain says of a channel that no pocket holds."""
        funds = _seen_funds(row.funds, state, self._now())
        row = msgspec.structs.replace(row, funds=funds)
        self._book.save(row)
        return row

    def _note(self, channel: PayerChannel, **changes: int) -> None:
        self.keep(channel.note(msgspec.structs.replace(channel.row.funds, **changes)))

    def _note_use(self, channel: PayerChannel) -> None:
        if self._now() - channel.row.funds.used_at >= USED_STEP_S:
            self._note(channel, used_at=self._now())

    # --- money out ---

    def _close(self, row: ChannelRow) -> ChannelRow:
        self._pockets.pop(row.operator, None)
        row = msgspec.structs.replace(row, funds=msgspec.structs.replace(row.funds, is_closed=True))
        self._book.save(row)
        return row

    async def _take_back(self, row: ChannelRow) -> ChannelOnChain:
        """Ask for what is free, or take it when its time has come; gives what the chain says
        then.
        """
        state = await self._vault.read(row.channel_id)
        row = self._seen(row, state)
        reserved = 0 if self._is_idle(row) else row.reserved
        free = state.balance - max(row.cumulative, state.total_claimed) - reserved
        if state.withdraw_requested_at:
            if state.withdraw_requested_at + row.config.withdraw_delay > self._clock():
                return state
            await self._vault.take_back(row.config)
            self._telemetry.count("withdrawals_finished")
        elif free > 0:
            await self._vault.ask_back(row.config, free)
            self._telemetry.count("withdrawals_begun")
        else:
            return state
        state = await self._vault.read(row.channel_id)
        self._seen(row, state)
        return state

    def _is_used(self, row: ChannelRow) -> bool:
        pocket = self._pockets.get(row.operator)
        return (
            pocket is not None and pocket.visits > 0 and pocket.channel.channel_id == row.channel_id
        )

    def _is_idle(self, row: ChannelRow) -> bool:
        return self._clock() - row.funds.used_at >= self._idle_s

    def _rows(self) -> list[ChannelRow]:
        """Channels that we pay from, oldest first."""
        return [
            row
            for row in self._book.all()
            if row.config.payer == self._payer and row.operator != self._notary.address
        ]

    def _now(self) -> int:
        return int(self._clock())


def _number(row: ChannelRow) -> int:
    """A channel's number among those of its payer and node."""
    return int.from_bytes(row.config.salt[-SALT_NONCE_BYTES:], "big")


def _seen_funds(funds: Funds, state: ChannelOnChain, now: int) -> Funds:
    """What is known once the chain has spoken: what came is no longer under way, and what did not
    come for long never will.
    """
    arrived = max(state.balance - funds.deposit, 0)
    under_way = max(funds.under_way - arrived, 0)
    if now - funds.sent_at >= DEPOSIT_DOUBT_S:
        under_way = 0
    return msgspec.structs.replace(funds, deposit=state.balance, under_way=under_way)


def _describe(row: ChannelRow, state: ChannelOnChain) -> ChannelInfo:
    asked_at = state.withdraw_requested_at
    spent = max(row.cumulative, state.total_claimed)
    if asked_at:
        word: ChannelState = "withdrawing"
    elif row.funds.is_closed:
        word = "closed"
    else:
        word = "open" if state.balance else "empty"
    return ChannelInfo(
        channel=row.channel_id.hex(),
        role="client",
        counterparty=to_hex(row.operator),
        state=word,
        balance=state.balance,
        spent=spent,
        vouched=row.voucher,
        claimed=state.total_claimed,
        reserved=row.reserved,
        free=max(state.balance - spent - row.reserved, 0),
        available_at=asked_at + row.config.withdraw_delay if asked_at else None,
    )
