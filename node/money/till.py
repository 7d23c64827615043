"""The node's side of a channel: takes vouchers, drafts receipts, keeps them until the client
signed. Asks the chain what a channel holds.

A voucher reserves nothing on chain, so a channel is read again at least every RECHECK_S, and when a
voucher exceeds the deposit that is known. Nothing new is accepted while a withdrawal is under way,
and what is owed is claimed at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec
import trio

from proofs.chain.errors import ChainError
from proofs.digest import Network
from proofs.errors import ProofError
from proofs.receipt import (
    SignedReceipt,
    VerifiedReceipt,
    decode_body,
    digest_of,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, Voucher, channel_id, check_channel, verify_voucher

from ..errors import BadRequest, NoChannel, PaymentRequired
from ..threads import in_thread
from ..wire import infer as wire
from .addresses import address_of_peer
from .book import ChannelBook, ChannelRow, Draft
from .metering import Account, Deal, Position
from .vault import ReadChannel

RECHECK_S = 45.0
REREAD_S = 1.0  # the chain is not asked about one channel more often than this
DEPOSIT_DEADLINE_S = 5.0  # how long a deposit may take to be seen here after the client saw it
CHAIN_DEADLINE_S = 20.0
MIN_WITHDRAW_DELAY_S = 900
MAX_TABS = 4096


OnReceipt = Callable[[VerifiedReceipt, ChannelRow], None]


class Till:
    """All channels that pay this node.

    `on_receipt` gets every receipt that has both signatures, with the channel it was paid in;
    `on_withdrawal` hears that a client wants its money back.
    """

    def __init__(
        self,
        signer: Signer,
        network: Network,
        book: ChannelBook,
        read_channel: ReadChannel,
        on_receipt: OnReceipt,
        *,
        on_withdrawal: Callable[[], None],
    ) -> None:
        self._signer = signer
        self._network = network
        self._book = book
        self._read = read_channel
        self._on_receipt = on_receipt
        self._on_withdrawal = on_withdrawal
        self._tabs: dict[bytes, Tab] = {}
        self.operator = signer.address

    async def open(self, peer_id: str, client: bytes, config: ChannelConfig) -> Tab:
        """The tab of the channel that shall pay; NoChannel or BadRequest says why it cannot."""
        if client != address_of_peer(peer_id):
            raise BadRequest(
                "the client's address is not the one of the key that opened this stream"
            )
        try:
            check_channel(config, self.operator, client, self._network)
        except ProofError as error:
            raise NoChannel(str(error)) from error
        if config.voucher_signer != client:
            raise NoChannel("the channel's vouchers are signed by another key than the client's")
        if config.withdraw_delay < MIN_WITHDRAW_DELAY_S:
            raise NoChannel(
                f"the channel's withdraw delay of {config.withdraw_delay} s is below"
                f" {MIN_WITHDRAW_DELAY_S} s"
            )
        tab = self._tab(channel_id(config, self._network), config)
        await tab.recheck()
        return tab

    def _tab(self, channel: bytes, config: ChannelConfig) -> Tab:
        if channel not in self._tabs:
            if len(self._tabs) >= MAX_TABS:
                self._forget_idle()
            row = self._book.find(channel) or ChannelRow(channel, self.operator, config)
            self._tabs[channel] = Tab(
                row,
                self._signer,
                self._network,
                self._book,
                read=self._read,
                on_receipt=self._on_receipt,
                on_withdrawal=self._on_withdrawal,
            )
        return self._tabs[channel]

    def _forget_idle(self) -> None:
        for channel, tab in list(self._tabs.items()):
            if not tab.is_busy:
                del self._tabs[channel]


class Tab:
    """One channel.

    Requests on it run at the same time; receipts are drafted one after another, under `lock`.
    """

    def __init__(
        self,
        row: ChannelRow,
        signer: Signer,
        network: Network,
        book: ChannelBook,
        read: ReadChannel,
        on_receipt: OnReceipt,
        on_withdrawal: Callable[[], None],
    ) -> None:
        self._row = row
        self._signer = signer
        self._network = network
        self._book = book
        self._read = read
        self._on_receipt = on_receipt
        self._on_withdrawal = on_withdrawal
        self.lock = trio.Lock()
        self._reading = trio.Lock()
        self.channel_id = row.channel_id
        self._keys = itertools.count(1)
        self._account = Account(row.cumulative, row.voucher, row.voucher)
        self._drafts: list[tuple[int, Draft]] = []
        for draft in row.drafts:
            key = self.new_key()
            self._account.reserve(key, draft.amount)
            self._drafts.append((key, draft))
        self._open: set[int] = set()
        self._read_at = float("-inf")
        self._refusal: str | None = None
        self._is_withdrawn = False

    @property
    def is_busy(self) -> bool:
        """Whether requests run on it."""
        return bool(self._open)

    @property
    def pending(self) -> Draft | None:
        """The oldest receipt that lacks the client's signature."""
        return self._drafts[0][1] if self._drafts else None

    def new_key(self) -> int:
        """A name for one more request."""
        return next(self._keys)

    async def recheck(self) -> None:
        """Read the channel from the chain unless that was done just now; NoChannel when it cannot
        pay any more.
        """
        async with self._reading:
            if trio.current_time() - self._read_at >= (REREAD_S if self._refusal else RECHECK_S):
                await self._read_channel()
        self._check_channel()

    def _check_channel(self) -> None:
        if self._refusal:
            raise NoChannel(self._refusal)

    async def _await_deposit(self, amount: int) -> None:
        """The client vouched for more than the deposit that is known: it may have deposited more
        just now.
        """
        with trio.move_on_after(DEPOSIT_DEADLINE_S):
            while amount > self._account.deposit:
                async with self._reading:
                    await trio.sleep_until(self._read_at + REREAD_S)
                    if amount > self._account.deposit:
                        await self._read_channel()
        self._check_channel()

    async def _read_channel(self) -> None:
        """Ask the chain what the channel holds. The caller holds `_reading`."""
        try:
            state = await in_thread(self._read, self.channel_id, deadline_s=CHAIN_DEADLINE_S)
        except (trio.TooSlowError, ChainError) as error:
            raise NoChannel(
                f"the chain did not say what the channel holds ({error}); ask again"
            ) from error
        self._read_at = trio.current_time()
        self._account.deposit = max(state.balance, self._account.voucher)
        if state.withdraw_requested_at and not self._is_withdrawn:
            self._on_withdrawal()
        self._is_withdrawn = bool(state.withdraw_requested_at)
        self._refusal = None
        if self._is_withdrawn:
            self._refusal = "a withdrawal of this channel is under way; open another one"
        elif state.balance <= self._account.settled:
            self._refusal = (
                f"the channel holds {state.balance}, of which {self._account.settled} is spent;"
                " deposit more"
            )

    async def take(self, key: int, pay: wire.Pay) -> None:
        """Take a voucher and let request `key` spend up to its limit; PaymentRequired when it does
        not cover that.
        """
        await self.recheck()
        if pay.amount > self._account.voucher:
            voucher = Voucher(self.channel_id, pay.amount, pay.signature)
            try:
                verify_voucher(voucher, self._row.config, self._network)
            except ProofError as error:
                raise PaymentRequired(f"the voucher is not valid: {error}") from error
            await self._await_deposit(pay.amount)
            self._raise_voucher(pay)
        self._account.reserve(key, pay.limit)
        self._open.add(key)

    def _raise_voucher(self, pay: wire.Pay) -> None:
        before = self._account.voucher
        self._account.raise_voucher(pay.amount)
        if self._account.voucher > before:
            self._write(voucher=pay.amount, voucher_signature=pay.signature)

    def draft(self, key: int, deal: Deal, answer_ids: Sequence[int]) -> Draft:
        """Write the next receipt of the channel, signed by this node, and keep it until the client
        signs too. The caller holds the lock.
        """
        receipt = deal.receipt(self._network, self._next_position(), answer_ids)
        draft = Draft(
            encode_body(receipt), sign_receipt(self._signer, receipt, self._network), receipt.amount
        )
        self._account.shrink(key, receipt.amount)
        self._drafts.append((key, draft))
        self._open.discard(key)
        self._write(drafts=tuple(kept for _, kept in self._drafts))
        return draft

    def settle(self, client_signature: bytes) -> None:
        """The client signed the oldest draft: it is a receipt now, and safe on disk; BadRequest
        when the signature is not the client's.
        """
        key, draft = self._drafts[0]
        signed = SignedReceipt(draft.body, draft.node_signature, client_signature)
        try:
            verified = verify_receipt(signed, self._network)
        except ProofError as error:
            raise BadRequest(f"the receipt's signature is not valid: {error}") from error
        self._on_receipt(verified, self._row)
        self._drafts.pop(0)
        self._account.settle(key, draft.amount)
        self._write(
            sequence=verified.receipt.sequence,
            previous=verified.digest,
            cumulative=verified.receipt.cumulative,
            drafts=tuple(kept for _, kept in self._drafts),
        )
        self._account.check()

    def owes(self, key: int) -> bool:
        """Whether request `key` still has money reserved that no receipt speaks about."""
        return key in self._open

    def release(self, key: int) -> None:
        """Request `key` costs nothing."""
        if key in self._open:
            self._open.discard(key)
            self._account.release(key)

    def _next_position(self) -> Position:
        if not self._drafts:
            return self._row.position
        last = self._drafts[-1][1].body
        receipt = decode_body(last)
        return Position(receipt.sequence + 1, digest_of(last), receipt.cumulative)

    def _write(self, **changes: object) -> None:
        self._row = msgspec.structs.replace(self._row, **changes)
        self._book.save(self._row)
