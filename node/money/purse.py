"""The client's side of its channels: opens one for each node it pays, signs vouchers, and signs a
receipt only when it would have written the same.

Deposits in steps as a channel is used up; what a vanished node may still claim stays reserved until
that node answers again.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence

import msgspec
import trio

from proofs.digest import Network
from proofs.errors import ProofError
from proofs.receipt import (
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    check_signature,
    check_terms,
    decode_body,
    digest_of,
    receipt_digest,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import SALT_NONCE_BYTES, ChannelConfig, channel_id, operator_salt, sign_voucher

from ..errors import NoChannel, NodeCheated
from ..wire import infer as wire
from .addresses import address_of_peer
from .book import ChannelBook, ChannelRow
from .metering import Account, Deal, find_difference
from .vault import Vault

WITHDRAW_DELAY_S = 24 * 3600


class Purse:
    """All channels that this daemon pays from."""

    def __init__(
        self,
        signer: Signer,
        network: Network,
        book: ChannelBook,
        vault: Vault,
        on_receipt: Callable[[VerifiedReceipt], None],
    ) -> None:
        self._signer = signer
        self._network = network
        self._book = book
        self._vault = vault
        self._on_receipt = on_receipt
        self._pockets: dict[bytes, Pocket] = {}
        self._locks: dict[bytes, trio.Lock] = {}

    async def pocket(self, peer_id: str) -> Pocket:
        """The channel that pays this node; opened when there is none yet, filled when it is nearly
        used up. NoChannel says why it cannot.
        """
        operator = address_of_peer(peer_id)
        async with self._locks.setdefault(operator, trio.Lock()):
            if operator not in self._pockets:
                self._pockets[operator] = await self._load(operator) or await self._open(operator)
            pocket = self._pockets[operator]
            await pocket.fill_if_low()
            return pocket

    def forget(self, peer_id: str) -> None:
        """This node does not take our channel any more: ask the chain about it before it is used
        again.
        """
        operator = address_of_peer(peer_id)
        if operator in self._pockets and not self._pockets[operator].is_busy:
            del self._pockets[operator]

    async def _load(self, operator: bytes) -> Pocket | None:
        row = self._book.find_by_operator(operator)
        if row is None:
            return None
        state = await self._vault.read(row.channel_id)
        if state.withdraw_requested_at or not state.balance:
            return None
        return self._pocket(row, state.balance)

    async def _open(self, operator: bytes) -> Pocket:
        own = self._signer.address
        salt = operator_salt(operator, secrets.token_bytes(SALT_NONCE_BYTES))
        config = ChannelConfig(
            own,
            own,
            self._network.settlement,
            operator,
            self._network.token,
            WITHDRAW_DELAY_S,
            salt,
        )
        row = ChannelRow(channel_id(config, self._network), operator, config)
        self._book.save(row)
        return self._pocket(row, await self._vault.fill(config, 0))

    def _pocket(self, row: ChannelRow, deposit: int) -> Pocket:
        return Pocket(
            row,
            deposit,
            self._signer,
            self._network,
            book=self._book,
            vault=self._vault,
            on_receipt=self._on_receipt,
        )


class Pocket:
    """One channel as its payer sees it.

    Requests on it run at the same time; receipts are signed one after another.
    """

    def __init__(
        self,
        row: ChannelRow,
        deposit: int,
        signer: Signer,
        network: Network,
        book: ChannelBook,
        vault: Vault,
        on_receipt: Callable[[VerifiedReceipt], None],
    ) -> None:
        self._row = row
        self._signer = signer
        self._network = network
        self._book = book
        self._vault = vault
        self._on_receipt = on_receipt
        self._filling = trio.Lock()
        self._account = Account(row.cumulative, row.voucher, max(deposit, row.voucher))
        self._keys = itertools.count(1)
        self._lost: set[int] = set()
        self._open: set[int] = set()
        self.channel_id = row.channel_id
        self.terms = row.config

    @property
    def is_busy(self) -> bool:
        """Whether requests run on it."""
        return bool(self._open)

    def new_key(self) -> int:
        """A name for one more request."""
        return next(self._keys)

    async def fill_if_low(self) -> None:
        """Deposit another step when little is left, before a request needs it."""
        async with self._filling:
            if not self._vault.is_low(self._account.free):
                return
            try:
                await self._fill(0)
            except NoChannel:
                if not self._account.free:
                    raise

    async def pay(self, key: int, limit: int) -> wire.Pay:
        """A voucher that lets request `key` spend up to `limit` beside everything else, after a
        deposit if it takes one.

        PaymentRequired when more would lie in the channel than the operator allows.
        """
        self._open.add(key)
        async with self._filling:
            if self._account.missing(key, limit):
                await self._fill(self._account.missing(key, limit))
        amount = self._account.want(key, limit)
        if amount > self._row.voucher:
            voucher = sign_voucher(self._signer, self.channel_id, amount, self._network)
            self._write(voucher=amount, voucher_signature=voucher.signature)
        return wire.Pay(limit, self._row.voucher, self._row.voucher_signature)

    def cosign(
        self, key: int, deal: Deal, answer_ids: Sequence[int], body: bytes, node_signature: bytes
    ) -> tuple[bytes, int, bytes]:
        """Write the receipt that this answer should have, compare it with the node's, and sign it:
        digest, amount, signature.
        """
        own = deal.receipt(self._network, self._row.position, answer_ids)
        given = self._read_receipt(deal.operator, body, node_signature)
        difference = find_difference(own, given)
        if difference is not None:
            wrong = f"{getattr(given, difference)!r:.80}, not {getattr(own, difference)!r:.80}"
            raise NodeCheated(
                f"the node's receipt has another {difference} than this answer: {wrong}; it is not"
                " signed"
            )
        self._account.settle(key, own.amount)
        self._open.discard(key)
        return digest_of(body), own.amount, self._keep(given, body, node_signature)

    def cosign_pending(self, body: bytes, node_signature: bytes) -> bytes:
        """Sign a receipt over an answer that broke off: within what was vouched for, next in the
        channel, and true in itself.
        """
        receipt = self._read_receipt(self._row.operator, body, node_signature)
        if digest_of(body) == self._row.previous:
            return sign_receipt(
                self._signer, receipt, self._network
            )  # signed before; the node did not get it
        self._check_pending(receipt)
        self._account.settled = receipt.cumulative
        self.forget_lost()
        return self._keep(receipt, body, node_signature)

    def forget_lost(self) -> None:
        """The node showed everything it may claim: what vanished answers reserved is free again."""
        for key in self._lost:
            self._account.release(key)
        self._lost.clear()

    def leave(self, key: int) -> None:
        """The stream of request `key` ended; if no receipt closed it, the node may still show
        one.
        """
        if key in self._open:
            self._open.discard(key)
            self._lost.add(key)

    async def _fill(self, missing: int) -> None:
        """Raise the deposit by at least `missing`.

        The caller holds the lock, so that two requests do not deposit for the same need.
        """
        unspent = self._account.deposit - self._account.settled
        self._account.deposit += await self._vault.fill(self._row.config, unspent, missing)

    def _read_receipt(self, operator: bytes, body: bytes, node_signature: bytes) -> Receipt:
        try:
            receipt = decode_body(body)
            check_terms(receipt, self._network)
            check_signature(
                "node signature", receipt_digest(receipt, self._network), node_signature, operator
            )
        except ProofError as error:
            raise NodeCheated(f"the node's receipt is not valid: {error}") from error
        return receipt

    def _check_pending(self, receipt: Receipt) -> None:
        """What can be known about an answer that was never seen whole."""
        row = self._row
        facts = {
            "channel": (receipt.channel_id, row.channel_id),
            "sequence": (receipt.sequence, row.sequence + 1),
            "previous receipt": (receipt.previous, row.previous),
            "operator": (receipt.operator, row.operator),
            "client": (receipt.client, self._signer.address),
            "cumulative amount": (receipt.cumulative, row.cumulative + receipt.amount),
        }
        for name, (given, expected) in facts.items():
            if given != expected:
                raise NodeCheated(
                    f"the node shows an unsigned receipt with another {name} than this channel's"
                    " next; it is not signed"
                )
        if receipt.cumulative > row.voucher:
            raise NodeCheated(
                f"the node shows an unsigned receipt over {receipt.cumulative}; only {row.voucher}"
                " was ever vouched for"
            )

    def _keep(self, receipt: Receipt, body: bytes, node_signature: bytes) -> bytes:
        signature = sign_receipt(self._signer, receipt, self._network)
        self._write(
            sequence=receipt.sequence, previous=digest_of(body), cumulative=receipt.cumulative
        )
        self._on_receipt(
            verify_receipt(SignedReceipt(body, node_signature, signature), self._network)
        )
        return signature

    def _write(self, **changes: object) -> None:
        self._row = msgspec.structs.replace(self._row, **changes)
        self._book.save(self._row)
