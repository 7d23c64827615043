"""Claims a daemon's money: vouchers into the settlement contract, payouts to its accounts.

    a channel owes more than is claimed, and that is worth the gas → claimed → its receipts are sent
    a header is final that awards our accounts more than was paid   → paid out

Two loops' worth of state: what the chain said of each channel last. Decides nothing about
vouchers' worth (proofs/chain/claiming.py does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from proofs.chain.claiming import Due, GasPrice, choose_claims, is_payout_worth
from proofs.chain.client import ChainClient
from proofs.chain.structs import ChannelState, VoucherClaim
from proofs.chain.views import LATEST
from proofs.state import EpochState
from proofs.voucher import channel_id

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.channels import ChannelRow
from .book import ChannelBook
from .mirror import Claimable, Mirror

CHAIN_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Owed:
    """A channel that pays us: its row, and what of it the chain says is claimed and held."""

    row: ChannelRow
    state: ChannelState

    @property
    def target(self) -> int:
        """Return up to where it can be claimed: what is owed, as far as the channel holds it."""
        return min(self.row.owed, self.state.balance)


class Claims:
    """The claims of one daemon. `on_claimed` hears when receipts may be sent that could not be."""

    def __init__(
        self,
        chain: ChainClient,
        book: ChannelBook,
        mirror: Mirror,
        telemetry: Telemetry,
        *,
        operator: bytes,
        accounts: Sequence[bytes],
        unit_wei: int,
        on_claimed: Callable[[], None],
    ) -> None:
        self._chain = chain
        self._book = book
        self._mirror = mirror
        self._telemetry = telemetry
        self._operator = operator
        self._accounts = tuple(dict.fromkeys(accounts))
        self._unit_wei = unit_wei
        self._on_claimed = on_claimed
        self._claimed: dict[bytes, int] = {}  # as deep as the network's finality asks
        self._held: dict[bytes, str] = {}  # why a channel's voucher was not claimed last time
        self._claim_now = trio.Event()

    def why_held(self, channel_id: bytes) -> str | None:
        """Why a channel's voucher was not claimed when it was looked at last; None: nothing is
        known to be in the way.
        """
        return self._held.get(channel_id)

    def is_claimed(self, channel_id: bytes, cumulative: int) -> bool:
        """Return whether the chain said that a channel's vouchers are claimed so far."""
        return self._claimed.get(channel_id, 0) >= cumulative

    def claim_soon(self) -> None:
        """A client wants its money back: claim what is ours before the withdrawal's delay ends."""
        self._claim_now.set()

    async def run(self, interval_s: float) -> None:
        """Claim vouchers and payouts every interval, and at once after `claim_soon`, until
        cancelled.
        """
        while True:
            with trio.move_on_after(interval_s):
                await self._claim_now.wait()
            self._claim_now = trio.Event()
            await self.claim_vouchers()
            await self.claim_payouts()

    async def claim_vouchers(self) -> None:
        """Book what clients' receipts cost so far to the settlement contract, as far as it is worth
        the gas.
        """
        claimed = 0
        refused: list[str] = []
        with survive(self._telemetry, "claims of vouchers"):
            claimed, refused = await in_thread(
                self._claim_vouchers, self._rows(), deadline_s=CHAIN_DEADLINE_S
            )
        for reason in refused:
            self._telemetry.log(f"settlement: a voucher is refused: {reason}")
        if claimed:
            self._telemetry.count("vouchers_claimed", claimed)
            self._telemetry.log(f"settlement: claimed {claimed} vouchers")

    def _claim_vouchers(self, rows: Sequence[ChannelRow]) -> tuple[int, list[str]]:
        owed = self._look(rows)
        due = [
            Due(
                one.row.channel_id,
                one.target - one.state.total_claimed,
                is_leaving=bool(one.state.withdraw_requested_at),
            )
            for one in owed
        ]
        chosen = {one.channel_id for one in choose_claims(due, self._gas_price())} if due else set()
        self._held = {
            one.channel_id: f"{one.amount} is worth less than its gas now; unit_wei says how much"
            for one in due
            if one.channel_id not in chosen and one.amount > 0
        }
        claims = [
            VoucherClaim(one.row.config, one.row.as_voucher, one.target)
            for one in owed
            if one.row.channel_id in chosen
        ]
        if not claims:
            return 0, []
        done = self._chain.channels.claim(claims)
        self._held |= {
            channel_id(claim.config, self._chain.network): f"the contract refuses it: {error}"
            for claim, error in done.refused
        }
        self._look([one.row for one in owed if one.row.channel_id in chosen])
        return len(claims) - len(done.refused), [str(error) for _, error in done.refused]

    def _look(self, rows: Sequence[ChannelRow]) -> list[Owed]:
        """Read what the chain says of these channels, and note what of them is claimed for good."""
        ids = [row.channel_id for row in rows]
        now = self._chain.channels.read_many(ids, LATEST)
        deep = self._chain.channels.read_many(ids)
        before = dict(self._claimed)
        self._claimed |= {
            row.channel_id: min(newest.total_claimed, final.total_claimed)
            for row, newest, final in zip(rows, now, deep, strict=True)
        }
        if self._claimed != before:
            trio.from_thread.run_sync(self._on_claimed)
        return [Owed(row, state) for row, state in zip(rows, now, strict=True)]

    def _rows(self) -> list[ChannelRow]:
        """List channels that pay us and owe more than is known to be claimed for good; also what
        no header has yet, for the chain may take a claim back however deep it was.
        """
        state = self._mirror.history.state
        return [
            row
            for row in self._book.all()
            if row.operator == self._operator
            and row.owed > min(self._claimed.get(row.channel_id, 0), _settled(state, row))
        ]

    async def claim_payouts(self) -> None:
        """Have our accounts paid what the last final header awards them."""
        for account in self._accounts:
            claimable = self._mirror.claimable(account)
            if claimable is None:
                continue
            amount = 0
            with survive(self._telemetry, f"the payout of 0x{account.hex()}"):
                amount = await in_thread(self._claim_payout, claimable, deadline_s=CHAIN_DEADLINE_S)
            if amount:
                self._telemetry.count("payouts_claimed")
                self._telemetry.traces.paid_out(claimable.posted.header.epoch)
                self._telemetry.log(f"settlement: 0x{account.hex()} was paid {amount}")

    def _claim_payout(self, claimable: Claimable) -> int:
        leaf = claimable.shown.leaf
        unpaid = leaf.amount - self._chain.settlement.paid_to(leaf.account)
        if unpaid <= 0 or not is_payout_worth(unpaid, self._gas_price()):
            return 0
        self._chain.settlement.claim(claimable.posted, claimable.shown)
        return unpaid

    def _gas_price(self) -> GasPrice:
        return GasPrice(self._chain.wallet.suggest_fees().max_fee_wei, self._unit_wei)


def _settled(state: EpochState, row: ChannelRow) -> int:
    """Return what the last header has of a channel."""
    tip = state.find_tip(row.channel_id)
    return 0 if tip is None else tip.cumulative
