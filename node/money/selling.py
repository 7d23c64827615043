"""Takes strangers' payments over HTTP: x402's vouchers in the same channels that pay this node over
libp2p. Decides which payment is taken, relays deposits, gives back what a channel did not cost.

    payment ──▶ ours? signed? for just what is charged and this answer? alone? ──▶ deposit ──▶ chain
                                                                                   reserve ◀────┘

Such a payer signs no receipts and has one request at a time in a channel. What an answer cost is a
receipt with the node's signature alone at once: the voucher is the consent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import trio

from p2p.gossip import RateLimit
from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.structs import ChannelState, DepositAuthorization, VoucherClaim
from proofs.chain.views import LATEST
from proofs.chain.wallet import TransactionReceipt
from proofs.digest import Network
from proofs.hextext import to_hex
from proofs.offers import Offer, Served
from proofs.voucher import ChannelConfig, Voucher, channel_id

from ..api.sales import Payment, PaymentRefused, Priced, Refund, SaleTerms, Standing
from ..errors import NoChannel, NodeError, PaymentRequired
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.infer import Pay
from ..wire.metering import Price
from .till import Tab, Till

SEND_DEADLINE_S = 60.0
WITHDRAW_DELAY_S = 86_400
MIN_DEPOSIT = 20_000  # of less, a relayed deposit's gas would be a large part
LEAST_TRANSFER = 2_000  # the same of a transfer that buys one answer
TRANSACTIONS_PER_S = 0.2  # deposits and refunds, whose gas this node pays
TRANSACTIONS_AT_ONCE = 32

T = TypeVar("T")


class Chain(Protocol):
    """What is sent for a stranger (proofs.chain's Channels). Every call blocks."""

    def relay_deposit(
        self, config: ChannelConfig, authorization: DepositAuthorization
    ) -> TransactionReceipt:
        """Put a signed deposit into its channel."""

    def read_many(
        self, channel_ids: Sequence[bytes], block: str | int | None = None
    ) -> list[ChannelState]:
        """Many channels' states."""

    def claim(self, claims: list[VoucherClaim]) -> object:
        """Book vouchers to their receivers."""

    def refund(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Give unclaimed money back to the payer at once."""


Leave = Callable[[], None]


class Paid:
    """A channel that pays for one answer: request `key` may spend up to `limit` of it."""

    def __init__(self, tab: Tab, limit: int, transaction: str, moved: int, leave: Leave) -> None:
        self.tab = tab
        self.limit = limit
        self.key = tab.channel.new_key()
        self._transaction = transaction
        self._moved = moved
        self._leave = leave

    def close(self) -> None:
        """The answer is over: the channel's next may be paid, and what this one had reserved and
        did not cost is free. Harmless when repeated.
        """
        self.tab.channel.release(self.key)
        self._leave()

    def standing(self) -> Standing:
        """Return where the channel stands now."""
        return standing_of(self.tab, self._transaction, self._moved)


class Counter:
    """Where strangers pay. `signing_domain` asks the token how it signs; `shallow` of a deposit
    counts before it is so deep in the chain that it stays, so one answer may cost that at most. Who
    pays outright pays `payee`.
    """

    def __init__(
        self,
        till: Till,
        chain: Chain,
        network: Network,
        telemetry: Telemetry,
        *,
        signing_domain: Callable[[], tuple[str, str]],
        shallow: int,
        payee: bytes,
    ) -> None:
        self._till = till
        self._chain = chain
        self._network = network
        self._telemetry = telemetry
        self._signing_domain = signing_domain
        self.shallow = shallow
        self._domain: tuple[str, str] | None = None
        self._payee = payee
        self._busy: dict[bytes, object] = {}
        self._sent = RateLimit(TRANSACTIONS_PER_S, TRANSACTIONS_AT_ONCE, 1)

    async def terms(self, price: Price, least_fee: int) -> SaleTerms:
        """Return whom a stranger pays, and how, at these prices. Raises NodeError while the chain
        says nothing.
        """
        token_name, token_version = await self.domain()
        return SaleTerms(
            self._network.chain_id,
            self._network.settlement,
            self._till.operator,
            self._network.token,
            token_name=token_name,
            token_version=token_version,
            withdraw_delay_s=WITHDRAW_DELAY_S,
            prompt_price=price.prompt,
            completion_price=price.completion,
            least_fee=least_fee,
            min_deposit=MIN_DEPOSIT,
            max_amount=self.shallow,
            payee=self._payee,
            least_transfer=LEAST_TRANSFER,
        )

    async def domain(self) -> tuple[str, str]:
        """Return name and version of the domain in which a deposit is signed. Raises NodeError
        while the chain says nothing.
        """
        if self._domain is None:
            self._domain = await self._ask(self._signing_domain)
        return self._domain

    async def relay(self, config: ChannelConfig, deposit: DepositAuthorization) -> str:
        """Put a stranger's signed deposit into a channel of this network, whomever it pays; return
        the transaction. Raises PaymentRefused.
        """
        if config.receiver != self._network.settlement:
            raise PaymentRefused(
                "receiver_mismatch", f"the channel must pay {to_hex(self._network.settlement)}"
            )
        if config.token != self._network.token:
            told = to_hex(self._network.token)
            raise PaymentRefused("token_mismatch", f"fees are paid in {told}")
        return await self._relay(config, deposit)

    async def balance(self, channel: bytes) -> int:
        """Return what was put into a channel and not paid back, as the newest block says."""
        (state,) = await self._ask(self._chain.read_many, [channel], LATEST)
        return state.balance

    @asynccontextmanager
    async def take(self, payment: Payment, priced: Priced) -> AsyncIterator[Paid]:
        """Take a payment for one answer, and keep others out of its channel until the block ends.

        Raises PaymentRefused; what was deposited before that stays in the channel.
        """
        tab = self._open(payment.config, payment.voucher)
        with self._alone(tab) as leave:
            self._check_amount(tab, payment.voucher, priced.amount)
            moved = payment.deposit.amount if payment.deposit else 0
            transaction = await self._deposit(payment) if payment.deposit else ""
            await self._read(tab, is_new=bool(moved))
            paid = Paid(tab, priced.amount, transaction, moved, leave=leave)
            self._reserve(paid, payment.voucher)
            try:
                yield paid
            finally:
                paid.close()

    async def refund(self, refund: Refund) -> Standing:
        """Claim what a channel cost and give back the rest, or so much of it."""
        tab = self._open(refund.config, refund.voucher)
        with self._alone(tab):
            self._check_amount(tab, refund.voucher, 0)
            await self._read(tab, is_new=True)
            assert tab.seen is not None
            owed = tab.channel.row.owed
            rest = tab.seen.balance - owed
            if rest <= 0 or (refund.amount is not None and not 0 < refund.amount <= rest):
                raise PaymentRefused(
                    "refund_no_balance",
                    f"{max(rest, 0)} of the channel can be given back",
                    standing_of(tab),
                )
            amount = refund.amount or rest
            claims = [VoucherClaim(refund.config, refund.voucher, owed)]
            try:
                if tab.seen.total_claimed < owed:
                    await self._send(self._chain.claim, claims)
                done = await self._send(self._chain.refund, refund.config, amount)
            except ContractReverted as error:
                raise PaymentRefused("refund_transaction_failed", str(error)) from error
            await self._read(tab, is_new=True)
            self._telemetry.count("refunds_made")
            return standing_of(tab, to_hex(done.hash), amount)

    def sign(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale."""
        return self._till.sign_sale(said)

    def standing(self, channel: bytes) -> Standing | None:
        """Return where a channel stands that paid here, None for any other."""
        tab = self._till.find(channel)
        return None if tab is None else standing_of(tab)

    # --- is it taken ---

    def _open(self, config: ChannelConfig, voucher: Voucher) -> Tab:
        """Find the channel of a voucher that its signer made."""
        network = self._network
        if channel_id(config, network) != voucher.channel_id:
            raise PaymentRefused(
                "channel_id_mismatch",
                "the voucher's channel is not the one of its config on this chain",
            )
        if config.receiver != network.settlement:
            raise PaymentRefused(
                "receiver_mismatch", f"the channel must pay {to_hex(network.settlement)}"
            )
        if config.operator != self._till.operator:
            raise PaymentRefused(
                "receiver_authorizer_mismatch",
                f"the channel's receiver authorizer must be {to_hex(self._till.operator)}",
            )
        if config.token != network.token:
            raise PaymentRefused("token_mismatch", f"fees are paid in {to_hex(network.token)}")
        if config.withdraw_delay != WITHDRAW_DELAY_S:
            raise PaymentRefused(
                "withdraw_delay_mismatch", f"the withdraw delay must be {WITHDRAW_DELAY_S} s"
            )
        try:
            self._till.check_voucher(voucher, config)
            tab = self._till.open_for(config.voucher_signer, config)
        except NoChannel as error:
            raise PaymentRefused("channel_not_found", str(error)) from error
        except PaymentRequired as error:
            raise PaymentRefused("voucher_signature", str(error)) from error
        self._till.keep_late(tab)  # what it is told to have cost, a restart knows too
        return tab

    @contextmanager
    def _alone(self, tab: Tab) -> Iterator[Leave]:
        """Have one request of a channel at a time, until the block ends or is left early: the next
        one's voucher follows what this one costs.
        """
        channel = tab.channel.channel_id
        if channel in self._busy or tab.channel.is_in_use or tab.channel.pending is not None:
            raise PaymentRefused(
                "channel_busy",
                "another request is paid from this channel now; ask again when it has ended, or"
                " from a channel with another salt",
            )
        mark = object()
        self._busy[channel] = mark

        def leave() -> None:
            if self._busy.get(channel) is mark:
                del self._busy[channel]

        tab.visits += 1
        try:
            yield leave
        finally:
            tab.visits -= 1
            leave()

    def _check_amount(self, tab: Tab, voucher: Voucher, amount: int) -> None:
        """Raise unless a voucher is for exactly what was charged and this `amount`."""
        charged = tab.channel.row.owed
        if voucher.max_claimable_amount != charged + amount:
            raise PaymentRefused(
                "cumulative_amount_mismatch",
                f"the voucher is for {voucher.max_claimable_amount}; the channel has cost {charged}"
                f" and this may cost {amount}",
                standing_of(tab),
            )

    async def _deposit(self, payment: Payment) -> str:
        """Relay a deposit; return its transaction."""
        assert payment.deposit is not None
        return await self._relay(payment.config, payment.deposit)

    async def _relay(self, config: ChannelConfig, deposit: DepositAuthorization) -> str:
        if deposit.amount < MIN_DEPOSIT:
            raise PaymentRefused(
                "deposit_below_min_deposit", f"deposit {MIN_DEPOSIT} or more, not {deposit.amount}"
            )
        try:
            done = await self._send(self._chain.relay_deposit, config, deposit)
        except ContractReverted as error:
            raise PaymentRefused("deposit_transaction_failed", str(error)) from error
        self._telemetry.count("deposits_relayed")
        return to_hex(done.hash)

    async def _read(self, tab: Tab, *, is_new: bool) -> None:
        """Have the chain say what the channel holds; as new as a transaction of ours, where there
        was one.
        """
        now = trio.current_time()
        try:
            if is_new or tab.seen is None or tab.channel.is_stale(now):
                await self._till.read(tab, now)
            tab.channel.check_usable()
        except NoChannel as error:
            raise PaymentRefused("channel_not_found", str(error)) from error

    def _reserve(self, paid: Paid, voucher: Voucher) -> None:
        channel = paid.tab.channel
        pay = Pay(paid.limit, voucher.max_claimable_amount, voucher.signature)
        if channel.lacks_deposit(paid.key, pay):
            raise PaymentRefused(
                "cumulative_exceeds_balance",
                f"the channel holds {channel.deposit}; deposit more",
                standing_of(paid.tab),
            )
        persist = channel.raise_voucher(pay)
        if persist is not None:
            self._till.keep(persist)
        channel.reserve(paid.key, paid.limit)

    async def _send(self, call: Callable[..., T], *values: object) -> T:
        """Send a transaction, whose gas is ours: so many of them and no more."""
        if not self._sent.allow(("", ""), trio.current_time()):
            raise PaymentRefused(
                "channel_busy", "too many deposits and refunds at once; ask again in a minute"
            )
        return await self._ask(call, *values)

    async def _ask(self, call: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(call, *values, deadline_s=SEND_DEADLINE_S)
        except ContractReverted:
            raise
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(f"the chain does not do its part: {error}; ask again") from error


def standing_of(tab: Tab, transaction: str = "", moved: int = 0) -> Standing:
    """Return where a channel stands, as far as is known here."""
    row, seen = tab.channel.row, tab.seen
    return Standing(
        row.channel_id,
        row.config.payer,
        balance=seen.balance if seen else 0,
        total_claimed=seen.total_claimed if seen else 0,
        withdraw_requested_at=seen.withdraw_requested_at if seen else 0,
        refund_nonce=seen.refund_nonce if seen else 0,
        charged=row.owed,
        signed=row.voucher,
        signature=row.voucher_signature,
        transaction=transaction,
        moved=moved,
    )
