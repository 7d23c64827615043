"""A node's receipts on their way to money.

Three loops, each until cancelled; what one misses it finds again in the ledger.

    run_outbox:  receipt → gossip, and to the aggregator itself → its promise
    run_claims:  vouchers → the settlement contract            payouts → our accounts
    (mirror.py:  headers on the chain → batches → included, final)

Only the node sends receipts; the client keeps its copies and sees them included. Knows no stream of
an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio
from trio_typing import TaskStatus

from p2p.errors import P2pError
from p2p.gossip import Verdict
from p2p.host import Host
from proofs.chain.claiming import Due, GasPrice, choose_claims, is_payout_worth
from proofs.chain.client import ChainClient
from proofs.chain.structs import VoucherClaim
from proofs.chain.views import LATEST
from proofs.codec import encode
from proofs.digest import Network
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.epoch import EpochHeader
from proofs.errors import ProofError
from proofs.ledger import Outbox, OutboxEntry, OutboxState
from proofs.promise import verify_promise
from proofs.receipt import VerifiedReceipt
from proofs.sumtree import PayoutProof
from proofs.voucher import Voucher

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire import receipts as wire
from ..wire.channels import ChannelRow
from .book import ChannelBook
from .mirror import Mirror

OUTBOX_INTERVAL_S = 5.0
CHAIN_DEADLINE_S = 60.0


class Settlement:
    """The outbox and the claims of one daemon. `aggregator` is a peer id, "" gossips only;
    `unit_wei` is what a unit of the fee token is worth, 0 claims whatever is due.
    """

    def __init__(
        self,
        host: Host,
        chain: ChainClient,
        outbox: Outbox,
        book: ChannelBook,
        mirror: Mirror,
        telemetry: Telemetry,
        aggregator: str,
        aggregator_address: bytes,
        operator: bytes,
        accounts: Sequence[bytes],
        unit_wei: int = 0,
    ) -> None:
        self._host = host
        self._chain = chain
        self._outbox = outbox
        self._book = book
        self._mirror = mirror
        self._telemetry = telemetry
        self._aggregator = aggregator
        self._aggregator_address = aggregator_address
        self._operator = operator
        self._accounts = tuple(dict.fromkeys(accounts))
        self._unit_wei = unit_wei
        self._settled: dict[bytes, int] = {}  # claimed so deep that it stays: not asked again
        self._refused: set[bytes] = set()  # for good, by the aggregator: digests
        self._wake = trio.Event()
        self._claim_now = trio.Event()

    # --- receipts in ---

    def earned(self, receipt: VerifiedReceipt, row: ChannelRow) -> None:
        """A client signed: keep the receipt with the voucher that pays it, and send it soon.

        On disk when this returns.
        """
        self._outbox.add(receipt.signed, seal_envelope(receipt.signed, _voucher(row), row.config))
        self._telemetry.count("receipts_earned")
        self._wake.set()

    def paid(self, receipt: VerifiedReceipt) -> None:
        """We signed as client: keep our copy."""
        self._outbox.add(receipt.signed, None)
        self._telemetry.count("receipts_paid")

    # --- receipts out ---

    async def run_outbox(self, interval_s: float = OUTBOX_INTERVAL_S) -> None:
        """Send what has no promise yet, at once and again every interval, until cancelled."""
        while True:
            self._wake = trio.Event()
            with survive(self._telemetry, "outbox"):
                while entries := self._outbox.unpromised(wire.MAX_DELIVERED):
                    await self._gossip(entries)
                    if not await self._deliver(entries):
                        break
            with trio.move_on_after(interval_s):
                await self._wake.wait()

    async def _gossip(self, entries: Sequence[OutboxEntry]) -> None:
        for entry in entries:
            if entry.state == OutboxState.QUEUED and entry.envelope is not None:
                await self._host.gossip.publish(wire.TOPIC, entry.envelope)
                self._outbox.advance(entry.digest, OutboxState.GOSSIPED)

    async def _deliver(self, entries: Sequence[OutboxEntry]) -> bool:
        """Hand receipts to the aggregator; True when all it may still take were promised."""
        entries = [entry for entry in entries if entry.digest not in self._refused]
        if not entries or not self._aggregator or self._aggregator == self._host.peer_id:
            return False
        try:
            async with self._host.open_stream(
                self._aggregator, wire.PROTOCOL, wire.DELIVER_DEADLINE_S
            ) as stream:
                deliver = wire.Deliver(
                    [entry.envelope for entry in entries if entry.envelope is not None]
                )
                await stream.send(msgspec.msgpack.encode(deliver), wire.DELIVER_DEADLINE_S)
                answer = await stream.receive(wire.DELIVER_DEADLINE_S)
            taken = msgspec.msgpack.decode(answer, type=wire.Taken)
        except (P2pError, msgspec.MsgspecError, UnicodeError) as error:
            self._telemetry.log(
                f"settlement: the aggregator did not take {len(entries)} receipts now: {error};"
                " they are sent again"
            )
            return False
        kept = [
            self._keep(entry, outcome)
            for entry, outcome in zip(entries, taken.outcomes, strict=False)
        ]
        return len(kept) == len(entries) and all(kept)

    def _keep(
        self, entry: OutboxEntry, outcome: wire.Accepted | wire.Waiting | wire.Rejected
    ) -> bool:
        """Take what the aggregator says to one receipt; True when it need not be sent again."""
        name = entry.digest.hex()[:12]
        match outcome:
            case wire.Accepted():
                signed = encode(entry.signed)
                if verify_promise(
                    outcome.promise, signed, self._aggregator_address, self._mirror.network
                ):
                    self._outbox.keep_promise(entry.digest, outcome.promise)
                    self._telemetry.count("receipts_promised")
                    return True
                self._telemetry.log(f"settlement: the promise of receipt {name} does not hold")
            case wire.Waiting():
                self._telemetry.log(f"settlement: receipt {name} waits: {outcome.reason}")
            case wire.Rejected():
                self._telemetry.log(f"settlement: receipt {name} is rejected: {outcome.reason}")
                if not outcome.retryable:
                    self._refused.add(entry.digest)
        return False

    # --- money in ---

    async def run_claims(self, interval_s: float) -> None:
        """Claim vouchers and payouts every interval, and at once after `claim_soon`, until
        cancelled.
        """
        while True:
            with trio.move_on_after(interval_s):
                await self._claim_now.wait()
            self._claim_now = trio.Event()
            await self.claim_vouchers()
            await self.claim_payouts()

    def claim_soon(self) -> None:
        """A client wants its money back: claim what is ours before the withdrawal's delay ends."""
        self._claim_now.set()

    async def claim_vouchers(self) -> None:
        """Book what clients' receipts cost so far to the settlement contract, so that they can be
        sealed.
        """
        claimed = 0
        with survive(self._telemetry, "claims of vouchers"):
            claimed = await in_thread(
                self._claim_vouchers, self._rows(), deadline_s=CHAIN_DEADLINE_S
            )
        if claimed:
            self._telemetry.count("vouchers_claimed", claimed)
            self._telemetry.log(f"settlement: claimed {claimed} vouchers")

    def _claim_vouchers(self, rows: Sequence[ChannelRow]) -> int:
        channels = self._chain.channels
        open_rows = {
            row.channel_id: row
            for row in rows
            if row.cumulative > self._settled.get(row.channel_id, 0)
        }
        if not open_rows:
            return 0
        for channel, state in zip(open_rows, channels.read_many(list(open_rows)), strict=True):
            self._settled[channel] = state.total_claimed
        now = dict(zip(open_rows, channels.read_many(list(open_rows), LATEST), strict=True))
        due = [
            Due(
                channel,
                amount=min(row.cumulative, now[channel].balance) - now[channel].total_claimed,
                is_leaving=bool(now[channel].withdraw_requested_at),
            )
            for channel, row in open_rows.items()
        ]
        worth = [one.channel_id for one in choose_claims(due, self._gas_price())]
        claimed = channels.claim(
            [
                VoucherClaim(
                    open_rows[channel].config,
                    _voucher(open_rows[channel]),
                    min(open_rows[channel].cumulative, now[channel].balance),
                )
                for channel in worth
            ]
        )
        for claim, error in claimed.refused:
            self._telemetry.count("vouchers_refused")
            self._telemetry.log(
                f"settlement: channel {claim.voucher.channel_id.hex()[:12]} cannot be claimed, the"
                f" others are: {error}"
            )
        return len(worth) - len(claimed.refused)

    def _rows(self) -> list[ChannelRow]:
        """Channels that pay us and whose vouchers we may claim."""
        rows = [
            row for row in self._book.all() if row.operator == self._operator and row.cumulative
        ]
        return [row for row in rows if row.config.receiver_authorizer == self._operator]

    async def claim_payouts(self) -> None:
        """Have our accounts paid what the last header on the chain awards them."""
        header = self._mirror.header
        for account in self._accounts if header else ():
            if not self._mirror.credited(account):
                continue
            amount = 0
            with survive(self._telemetry, f"the payout of 0x{account.hex()}"):
                amount = await in_thread(
                    self._claim_payout,
                    header,
                    self._mirror.prove_payout(account),
                    deadline_s=CHAIN_DEADLINE_S,
                )
            if amount:
                self._telemetry.count("payouts_claimed")
                self._telemetry.log(f"settlement: 0x{account.hex()} was paid {amount}")

    def _claim_payout(self, header: EpochHeader, proof: PayoutProof) -> int:
        unpaid = proof.amount - self._chain.settlement.paid_to(proof.account)
        if unpaid <= 0 or not is_payout_worth(unpaid, self._gas_price()):
            return 0
        self._chain.settlement.claim(header, proof)
        return unpaid

    def _gas_price(self) -> GasPrice:
        return GasPrice(self._chain.wallet.suggest_fees().max_fee_wei, self._unit_wei)


def _voucher(row: ChannelRow) -> Voucher:
    return Voucher(row.channel_id, row.voucher, row.voucher_signature)


OnEnvelope = Callable[[VerifiedEnvelope, str], Awaitable[None]]


async def run_gossip(
    host: Host,
    network: Network | None,
    on_envelope: OnEnvelope | None,
    telemetry: Telemetry,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward receipts that hold and no others, until cancelled.

    Without a chain nothing can be checked, so nothing is forwarded.
    """

    def judge(data: bytes, from_peer: str) -> Verdict:
        if network is None:
            return Verdict.IGNORE
        try:
            open_envelope(data, network)
        except ProofError as error:
            telemetry.reject("receipt", from_peer, str(error))
            return Verdict.REJECT
        telemetry.count("receipts_verified")
        return Verdict.ACCEPT

    messages = await host.gossip.subscribe(wire.TOPIC, judge)
    task_status.started()
    async for message in messages:
        if on_envelope is not None and network is not None:
            await on_envelope(open_envelope(message.data, network), message.from_peer)
