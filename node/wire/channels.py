"""A channel's two ends, each as its own side sees it: vouchers, drafts, receipts, one after
another.

Decides what may be promised, taken and signed. Knows no stream, no clock, no disk and no chain: the
time and what the chain says come in, rows to keep come out. Requests share a channel; each goes by
a key.

    payer                                    payee
    want ─────────── voucher ──────────────▶ reserve            before the tokens
                                             draft              after them, in one chain
    compare, sign ◀── draft, node's signature
    settle ────────── client's signature ──▶ settle             a receipt

What a method returns as `Persist` must be on the disk before anything that follows it is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from proofs.errors import ProofError
from proofs.receipt import Receipt, SignedReceipt, VerifiedReceipt, decode_body, digest_of
from proofs.receipt import encode_body as encode_receipt
from proofs.voucher import ChannelConfig, Voucher

from ..errors import BadRequest, NoChannel, NodeCheated, PaymentRequired
from .infer import Pay
from .metering import Account, Deal, Position, find_difference
from .notary import Notary

RECHECK_S = 45.0
REREAD_S = 1.0  # the chain is not asked about one channel more often than this


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """A receipt that only the node has signed yet."""

    body: bytes
    node_signature: bytes
    amount: int


class ChannelRow(msgspec.Struct, frozen=True, array_like=True):
    """What either side must not forget about one channel.

    `sequence`, `previous`, `cumulative` are those of the last receipt with both signatures;
    `drafts` come after it.
    """

    channel_id: bytes
    operator: bytes
    config: ChannelConfig
    sequence: int = 0
    previous: bytes = bytes(32)
    cumulative: int = 0
    voucher: int = 0
    voucher_signature: bytes = b""
    drafts: tuple[Draft, ...] = ()

    @property
    def position(self) -> Position:
        """Where the next receipt stands, ignoring drafts."""
        return Position(self.sequence + 1, self.previous, self.cumulative)


@dataclass(frozen=True)
class Persist:
    """Write the row, and with it, in one transaction, the receipt that has just become one."""

    row: ChannelRow
    receipt: VerifiedReceipt | None = None


@dataclass(frozen=True)
class ChannelFacts:
    """What the chain says about a channel: `balance` is what was deposited and not paid back."""

    balance: int
    is_withdrawing: bool


class PayeeChannel:
    """One channel as the node sees it that is paid.

    - `raise_voucher` takes a promise, `reserve` lets a request spend of it; `draft` ends the
      request with a receipt that the node signs, `release` ends it for nothing.
    - `pending` is the oldest draft; `settle` makes it a receipt. Show one draft at a time.
    - `note` what the chain says, whenever `is_stale`.
    """

    def __init__(self, row: ChannelRow, notary: Notary) -> None:
        self.row = row
        self._notary = notary
        self._keys = itertools.count(1)
        self._account = Account(row.cumulative, row.voucher, row.voucher)
        self._drafts: list[tuple[int, Draft]] = []
        for draft in row.drafts:
            key = self.new_key()
            self._account.reserve(key, draft.amount)
            self._drafts.append((key, draft))
        self._open: set[int] = set()
        self.read_at = float("-inf")
        self.is_withdrawing = False
        self._fault: str | None = None

    @property
    def channel_id(self) -> bytes:
        """The channel's name."""
        return self.row.channel_id

    @property
    def deposit(self) -> int:
        """What the channel holds as far as is known."""
        return self._account.deposit

    @property
    def pending(self) -> Draft | None:
        """The oldest receipt that lacks the client's signature."""
        return self._drafts[0][1] if self._drafts else None

    def new_key(self) -> int:
        """Name one more request."""
        return next(self._keys)

    # --- the chain ---

    def is_stale(self, now: float) -> bool:
        """Whether the chain should be asked again before this channel is trusted."""
        return now - self.read_at >= (REREAD_S if self._fault else RECHECK_S)

    def note(self, facts: ChannelFacts, now: float) -> None:
        """Take over what the chain said at `now`."""
        self.read_at = now
        self._account.deposit = max(facts.balance, self._account.voucher)
        self.is_withdrawing = facts.is_withdrawing
        self._fault = None
        if facts.is_withdrawing:
            self._fault = "a withdrawal of this channel is under way; open another one"
        elif facts.balance <= self._account.settled:
            self._fault = (
                f"the channel holds {facts.balance}, of which {self._account.settled} is spent;"
                " deposit more"
            )

    def check_usable(self) -> None:
        """Raise NoChannel when this channel cannot pay any more, by what the chain said last."""
        if self._fault:
            raise NoChannel(self._fault)

    # --- vouchers ---

    def check_voucher(self, pay: Pay) -> None:
        """Raise PaymentRequired unless the channel's voucher signer signed this amount."""
        if (pay.amount, pay.signature) == (self.row.voucher, self.row.voucher_signature):
            return
        voucher = Voucher(self.channel_id, pay.amount, pay.signature)
        try:
            self._notary.check_voucher(voucher, self.row.config)
        except ProofError as error:
            raise PaymentRequired(f"the voucher is not valid: {error}") from error

    def raise_voucher(self, pay: Pay) -> Persist | None:
        """Take a voucher that was checked; PaymentRequired when it is above the deposit.

        One that is not higher than the last changes nothing.
        """
        before = self._account.voucher
        self._account.raise_voucher(pay.amount)
        if self._account.voucher == before:
            return None
        return self._keep(voucher=pay.amount, voucher_signature=pay.signature)

    def reserve(self, key: int, limit: int) -> None:
        """Let request `key` spend up to `limit` in all; PaymentRequired when the voucher does not
        cover that.
        """
        self._account.reserve(key, limit)
        self._open.add(key)

    # --- receipts ---

    def draft(self, key: int, deal: Deal, answer_ids: Sequence[int]) -> Persist:
        """End request `key` with the channel's next receipt, signed by this node."""
        receipt = deal.receipt(self._notary.network, self._next_position(), answer_ids)
        signature = self._notary.sign_receipt(receipt)
        draft = Draft(encode_receipt(receipt), signature, receipt.amount)
        self._account.shrink(key, receipt.amount)
        self._open.discard(key)
        self._drafts.append((key, draft))
        return self._keep(drafts=tuple(kept for _, kept in self._drafts))

    def settle(self, client_signature: bytes) -> Persist:
        """Make the oldest draft a receipt; BadRequest when the signature is not the client's."""
        key, draft = self._drafts[0]
        signed = SignedReceipt(draft.body, draft.node_signature, client_signature)
        try:
            verified = self._notary.verify_receipt(signed)
        except ProofError as error:
            raise BadRequest(f"the receipt's signature is not valid: {error}") from error
        self._drafts.pop(0)
        self._account.settle(key, draft.amount)
        return self._keep(
            verified,
            sequence=verified.receipt.sequence,
            previous=verified.digest,
            cumulative=verified.receipt.cumulative,
            drafts=tuple(kept for _, kept in self._drafts),
        )

    def owes(self, key: int) -> bool:
        """Whether request `key` has money reserved that no receipt speaks about."""
        return key in self._open

    def release(self, key: int) -> None:
        """Request `key` costs nothing."""
        if key in self._open:
            self._open.discard(key)
            self._account.release(key)

    def check(self) -> None:
        """Raise AssertionError unless the account holds, the drafts form one chain behind the last
        receipt, and the row says all of it.
        """
        self._account.check()
        position = self.row.position
        for key, draft in self._drafts:
            receipt = decode_body(draft.body)
            assert receipt.sequence == position.sequence, "a draft is out of order"
            assert receipt.previous == position.previous, "a draft does not follow the one before"
            assert receipt.cumulative == position.cumulative + draft.amount, (
                "a draft's sum is wrong"
            )
            assert self._account.reserved_for(key) == draft.amount, "a draft is not reserved"
            position = Position(
                receipt.sequence + 1, digest_of(draft.body), cumulative=receipt.cumulative
            )
        assert tuple(draft for _, draft in self._drafts) == self.row.drafts, "a draft is not kept"
        assert self._account.settled == self.row.cumulative, "a receipt is not kept"
        assert self._account.voucher == self.row.voucher, "a voucher is not kept"

    def _next_position(self) -> Position:
        if not self._drafts:
            return self.row.position
        last = self._drafts[-1][1].body
        receipt = decode_body(last)
        return Position(receipt.sequence + 1, digest_of(last), receipt.cumulative)

    def _keep(self, receipt: VerifiedReceipt | None = None, **changes: object) -> Persist:
        self.row = msgspec.structs.replace(self.row, **changes)
        return Persist(self.row, receipt)


@dataclass(frozen=True)
class Payment:
    """A payment to send, and what must be kept first (None: nothing new was promised)."""

    pay: Pay
    persist: Persist | None


@dataclass(frozen=True)
class Signed:
    """The client's signature under a receipt, and what must be kept first (None: it was signed
    before).
    """

    receipt: Receipt
    digest: bytes
    signature: bytes
    persist: Persist | None


class PayerChannel:
    """One channel as its payer sees it.

    - `begin` a request, `pay` for it in steps, end it with `cosign`, or `leave` it: then it is
      lost, and what it reserved stays reserved until the node's next offer (`forget_lost`).
    - `cosign_pending` signs for a request that broke off.
    """

    def __init__(self, row: ChannelRow, deposit: int, notary: Notary) -> None:
        self.row = row
        self._notary = notary
        self._account = Account(row.cumulative, row.voucher, max(deposit, row.voucher))
        self._keys = itertools.count(1)
        self._seeds: dict[int, bytes] = {}  # of requests that are open or lost; a receipt names it
        self._lost: set[int] = set()

    @property
    def channel_id(self) -> bytes:
        """The channel's name."""
        return self.row.channel_id

    @property
    def config(self) -> ChannelConfig:
        """The channel's terms, as `Ask` carries them."""
        return self.row.config

    @property
    def free(self) -> int:
        """What is deposited and neither spent nor reserved."""
        return self._account.free

    @property
    def unspent(self) -> int:
        """What is deposited and not settled."""
        return self._account.deposit - self._account.settled

    # --- paying ---

    def begin(self, seed: bytes) -> int:
        """Name one more request, whose receipt will have this seed."""
        key = next(self._keys)
        self._seeds[key] = seed
        return key

    def missing(self, key: int, limit: int) -> int:
        """By how much the deposit is too small for request `key` to spend up to `limit`."""
        return self._account.missing(key, limit)

    def deposited(self, amount: int) -> None:
        """More lies in the channel now."""
        self._account.deposit += amount

    def pay(self, key: int, limit: int) -> Payment:
        """Let request `key` spend up to `limit` beside everything else; nothing may be `missing`.

        NodeCheated when the node has shown a receipt that ends this request.
        """
        if key not in self._seeds:
            raise NodeCheated("the node went on with an answer that it had billed as broken off")
        amount = self._account.want(key, limit)
        persist = None
        if amount > self.row.voucher or not self.row.voucher_signature:
            signature = self._notary.sign_voucher(self.channel_id, amount)
            persist = self._keep(voucher=amount, voucher_signature=signature)
        pay = Pay(limit, self.row.voucher, self.row.voucher_signature)
        return Payment(pay, persist)

    def leave(self, key: int) -> None:
        """The stream of request `key` ended; if no receipt closed it, the node may still show
        one.
        """
        if key in self._seeds:
            self._lost.add(key)

    def forget_lost(self) -> None:
        """The node showed everything it may claim: what lost requests reserved is free again."""
        for key in list(self._lost):
            self._forget(key)
            self._account.release(key)

    # --- receipts ---

    def cosign(
        self,
        key: int,
        deal: Deal,
        answer_ids: Sequence[int],
        body: bytes,
        node_signature: bytes,
    ) -> Signed:
        """Sign the receipt of request `key` if it is the one that this side would have written;
        NodeCheated names the first field that differs.
        """
        own = deal.receipt(self._notary.network, self.row.position, answer_ids)
        given = self._read_draft(body, node_signature)
        difference = find_difference(own, given)
        if difference is not None:
            wrong = f"{getattr(given, difference)!r:.80}, not {getattr(own, difference)!r:.80}"
            raise NodeCheated(
                f"the node's receipt has another {difference} than this answer: {wrong}; it is not"
                " signed"
            )
        self._settle(key, own.amount)
        return self._sign(given, body, node_signature)

    def cosign_pending(self, body: bytes, node_signature: bytes) -> Signed:
        """Sign a receipt over an answer that broke off: next in the channel, true in itself, and
        within what was vouched for.
        """
        receipt = self._read_draft(body, node_signature)
        if digest_of(body) == self.row.previous:  # signed before; the node did not get it
            signature = self._notary.sign_receipt(receipt)
            return Signed(receipt, digest_of(body), signature, persist=None)
        self._check_pending(receipt)
        key = self._find(receipt.seed)
        if key is None:
            self._settle_unknown(receipt)
        else:
            self._settle(key, receipt.amount)
        return self._sign(receipt, body, node_signature)

    def release(self, key: int) -> None:
        """Request `key` is over and cost nothing."""
        self._forget(key)
        self._account.release(key)

    def check(self) -> None:
        """Raise AssertionError unless the account holds and the row says all of it."""
        self._account.check()
        assert self._lost <= set(self._seeds), "a lost request is not known"
        assert self._account.settled == self.row.cumulative, "a receipt is not kept"
        assert self._account.voucher == self.row.voucher, "a voucher is not kept"

    def _find(self, seed: bytes) -> int | None:
        return next((key for key, known in self._seeds.items() if known == seed), None)

    def _forget(self, key: int) -> None:
        self._seeds.pop(key, None)
        self._lost.discard(key)

    def _settle(self, key: int, amount: int) -> None:
        """End a request that is known with a receipt."""
        limit = self._account.reserved_for(key)
        if amount > limit:
            raise NodeCheated(f"the node bills {amount} for an answer that was to cost {limit}")
        self._account.settle(key, amount)
        self._forget(key)

    def _settle_unknown(self, receipt: Receipt) -> None:
        """End a request of an earlier life of this daemon with a receipt: it is paid by what was
        vouched for and is not reserved by requests that run.
        """
        self.forget_lost()
        if receipt.cumulative + self._account.reserved > self.row.voucher:
            raise PaymentRequired(
                f"the node shows an unsigned receipt over {receipt.cumulative} while"
                f" {self._account.reserved} of the {self.row.voucher} vouched for is reserved by"
                " requests that run; ask again when they ended"
            )
        self._account.settled = receipt.cumulative

    def _read_draft(self, body: bytes, node_signature: bytes) -> Receipt:
        try:
            return self._notary.read_draft(body, node_signature, self.row.operator)
        except ProofError as error:
            raise NodeCheated(f"the node's receipt is not valid: {error}") from error

    def _check_pending(self, receipt: Receipt) -> None:
        """Check what can be known about an answer that was never seen whole."""
        row = self.row
        facts = {
            "channel": (receipt.channel_id, row.channel_id),
            "sequence": (receipt.sequence, row.sequence + 1),
            "previous receipt": (receipt.previous, row.previous),
            "operator": (receipt.operator, row.operator),
            "client": (receipt.client, self._notary.address),
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

    def _sign(self, receipt: Receipt, body: bytes, node_signature: bytes) -> Signed:
        signature = self._notary.sign_receipt(receipt)
        verified = self._notary.verify_receipt(SignedReceipt(body, node_signature, signature))
        persist = self._keep(
            verified,
            sequence=receipt.sequence,
            previous=verified.digest,
            cumulative=receipt.cumulative,
        )
        return Signed(receipt, verified.digest, signature, persist)

    def _keep(self, receipt: VerifiedReceipt | None = None, **changes: object) -> Persist:
        self.row = msgspec.structs.replace(self.row, **changes)
        return Persist(self.row, receipt)
