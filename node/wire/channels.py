"""A channel's two ends, each as its own side sees it: vouchers, drafts, receipts, one after
another.

Decides what may be promised, taken and signed. Knows no stream, no clock, no disk and no chain: the
time and what the chain says come in, rows to keep come out. Requests share a channel; each goes by
a key.

    payer                                    payee
    want ─────────── voucher ──────────────▶ reserve            before the tokens
                                             draft              after them, in one chain
    compare, sign ◀── draft, node's signature
    settle ────────── client's signature ──▶ settle             a receipt with both signatures
                      none for GRACE_S       tick               a receipt with the node's alone

What a method returns as `Persist` must be on the disk before anything that follows it is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec

from proofs.attribution.credit import NOTHING, Drawn
from proofs.attribution.shares import AdapterTerms, SharePolicy, fee, parties_of
from proofs.errors import ProofError
from proofs.payouts import MAX_CHANNEL_ACCOUNTS, ChannelPayouts
from proofs.receipt import (
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    decode_body,
    derive_shares,
    digest_of,
)
from proofs.receipt import encode_body as encode_receipt
from proofs.voucher import ChannelConfig, Voucher

from ..errors import (
    BadRequest,
    NoChannel,
    NodeAtOdds,
    NodeCheated,
    PaymentRequired,
    RemoteError,
)
from .infer import Pay
from .metering import FIRST, Account, Deal, Position, find_difference
from .notary import Notary

GRACE_S = 60.0  # how long a node waits for its client's signature
RECHECK_S = 45.0
MAX_PROMISED = 128  # paid requests without a receipt that a payer remembers in one channel
PLACE = ("sequence", "previous", "cumulative", "payouts")  # what a receipt takes of the one before
REREAD_S = 1.0  # the chain is not asked about one channel more often than this


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """A receipt that only the node has signed yet.

    `terms`: of its adapter. `policy`: of the version of the parameters that it names. `made_at`: in
    Unix seconds. `is_sent`: the client had its time, and the receipt is on its way without its
    signature.
    """

    body: bytes
    node_signature: bytes
    terms: AdapterTerms | None
    policy: SharePolicy
    made_at: int
    is_sent: bool = False

    def follow(self, position: Position) -> Position:
        """Where the next receipt stands, if this one stands at `position`."""
        receipt = decode_body(self.body)
        return _after(receipt, digest_of(self.body), self.terms, self.policy, position=position)


class Promised(msgspec.Struct, frozen=True, array_like=True):
    """A request that its payer paid for and that no receipt has ended.

    `body`: the receipt over an answer of no tokens, in the channel's first place. `terms`: of its
    adapter. `policy`: of the version of the parameters that it names. `limit`: what it may cost.
    `is_released`: the node made an offer since without showing a receipt for it, so its money may
    be promised again.
    """

    body: Receipt
    terms: AdapterTerms | None
    policy: SharePolicy
    limit: int = 0
    is_released: bool = False

    @property
    def reserved(self) -> int:
        """What may not be promised to anybody else."""
        return 0 if self.is_released else self.limit

    def receipt(self, position: Position, given: Receipt) -> Receipt:
        """What its receipt must be in this place, as far as this side can know: how many tokens
        came, and which, is taken from the one that is `given`.
        """
        told = msgspec.structs.replace(
            self.body,
            sequence=position.sequence,
            previous=position.previous,
            answer_commitment=given.answer_commitment,
            completion_tokens=given.completion_tokens,
        )
        shares = derive_shares(told, self.terms, self.policy)
        amount = fee(self.policy, told.price, parties_of(self.policy, told.owner, self.terms))
        return msgspec.structs.replace(
            told,
            amount=amount,
            cumulative=position.cumulative + amount,
            payouts=position.payouts.award(shares, amount).commitment,
        )


class Funds(msgspec.Struct, frozen=True, array_like=True):
    """What a payer knows about its money in one channel. Times in Unix seconds.

    `deposit`: what the chain said last that was put in and not paid back. `under_way`: sent at
    `sent_at`, not seen yet. `is_closed`: only to be taken back from now on.
    """

    deposit: int = 0
    under_way: int = 0
    sent_at: int = 0
    used_at: int = 0
    is_closed: bool = False


class ChannelRow(msgspec.Struct, frozen=True, array_like=True):
    """What either side must not forget about one channel.

    `sequence`, `previous`, `cumulative` and `payouts` (account, amount) are those of the last
    receipt with both signatures; `drafts` come after it. `drafts` is the node's alone, `promised`
    and `funds` the payer's.
    """

    channel_id: bytes
    operator: bytes
    config: ChannelConfig
    sequence: int = 0
    previous: bytes = bytes(32)
    cumulative: int = 0
    voucher: int = 0
    voucher_signature: bytes = b""
    payouts: tuple[tuple[bytes, int], ...] = ()
    drafts: tuple[Draft, ...] = ()
    promised: tuple[Promised, ...] = ()
    funds: Funds = Funds()

    @property
    def position(self) -> Position:
        """Where the next receipt stands, ignoring drafts."""
        payouts = ChannelPayouts(self.payouts)
        return Position(self.sequence + 1, self.previous, self.cumulative, payouts)

    @property
    def as_voucher(self) -> Voucher:
        """The highest voucher that was given in the channel."""
        return Voucher(self.channel_id, self.voucher, self.voucher_signature)

    @property
    def owed(self) -> int:
        """What the node has receipts and drafts for."""
        return decode_body(self.drafts[-1].body).cumulative if self.drafts else self.cumulative

    @property
    def locked(self) -> int:
        """What lies in the channel, or is on its way into it, and is not spent."""
        return max(self.funds.deposit + self.funds.under_way - self.cumulative, 0)

    @property
    def reserved(self) -> int:
        """What requests that no receipt has ended may still cost their payer."""
        return sum(promised.reserved for promised in self.promised)


@dataclass(frozen=True)
class Persist:
    """Write the row, and with it, in one transaction, the receipt that has just become one, or has
    got the client's signature.
    """

    row: ChannelRow
    receipt: VerifiedReceipt | None = None


@dataclass(frozen=True)
class ChannelFacts:
    """What the chain says about a channel: `balance` is what was deposited and not paid back."""

    balance: int
    is_withdrawing: bool


@dataclass(frozen=True)
class _Shown:
    """A draft that waits for its client: of which request, and where the next receipt stands."""

    key: int
    draft: Draft
    after: Position


class PayeeChannel:
    """One channel as the node sees it that is paid.

    - `raise_voucher` takes a promise, `reserve` lets a request spend of it; `draft` ends the
      request with a receipt that the node signs, `release` ends it for nothing.
    - `pending` is the oldest draft; `settle` gives it the client's signature. Show one draft at a
      time.
    - `tick` makes receipts of drafts that their client left alone for `grace_s`: what it vouched
      for is its consent. They stay drafts until it signs, for it has to see them once.
    - `note` what the chain says, whenever `is_stale`: until then the channel holds nothing.
    """

    def __init__(self, row: ChannelRow, notary: Notary, *, grace_s: float = GRACE_S) -> None:
        self.row = row
        self._notary = notary
        self._grace_s = grace_s
        self._keys = itertools.count(1)
        self._account = Account(row.cumulative, row.voucher, deposit=0)
        self._settled = row.position
        self._drafts: list[_Shown] = []
        for draft in row.drafts:
            key = self.new_key()
            before = self._next
            after = draft.follow(before)
            self._account.restore(key, after.cumulative - before.cumulative)
            self._drafts.append(_Shown(key, draft, after))
        self._open: dict[int, frozenset[bytes]] = {}  # the accounts that each may pay
        self.read_at = float("-inf")
        self.is_withdrawing = False
        self.is_dead = False

    @property
    def channel_id(self) -> bytes:
        """The channel's name."""
        return self.row.channel_id

    @property
    def deposit(self) -> int:
        """What the channel holds, as the chain said last."""
        return self._account.deposit

    @property
    def pending(self) -> Draft | None:
        """The oldest receipt that lacks the client's signature."""
        return self._drafts[0].draft if self._drafts else None

    @property
    def _next(self) -> Position:
        """Where the next draft stands."""
        return self._drafts[-1].after if self._drafts else self._settled

    def new_key(self) -> int:
        """Name one more request."""
        return next(self._keys)

    # --- the chain ---

    def is_stale(self, now: float) -> bool:
        """Whether the chain should be asked again before this channel is trusted."""
        return now - self.read_at >= (REREAD_S if self._fault() else RECHECK_S)

    def note(self, facts: ChannelFacts, now: float) -> None:
        """Take over what the chain said at `now`."""
        self.read_at = now
        self._account.deposit = facts.balance
        self.is_withdrawing = facts.is_withdrawing
        self.is_dead = facts.balance < self.row.owed

    def check_usable(self) -> None:
        """Raise NoChannel when this channel cannot pay any more, by what the chain said last."""
        if fault := self._fault():
            raise NoChannel(fault)

    def _fault(self) -> str | None:
        if self.is_dead:
            return (
                f"this channel is dead: it holds {self.deposit}, less than the {self.row.owed} that"
                " is owed in it; open another one"
            )
        if self.is_withdrawing:
            return "a withdrawal of this channel is under way; open another one"
        return None

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

    def lacks_deposit(self, key: int, pay: Pay) -> bool:
        """Whether this payment would be good if more lay in the channel."""
        is_promised = self._account.needed_with(key, pay.limit) <= max(pay.amount, self.row.voucher)
        return is_promised and self._account.missing(key, pay.limit) > 0

    def is_short(self, key: int, pay: Pay) -> bool:
        """Whether this payment is not good now and may soon be: more may lie in the channel, or
        other requests end and leave what they reserved.
        """
        if self.lacks_deposit(key, pay):
            return True
        promised = max(pay.amount, self.row.voucher)
        needed = self._account.needed_with(key, pay.limit)
        running = sum(self._account.reserved_for(each) for each in self._open if each != key)
        return needed - running <= promised < needed

    def raise_voucher(self, pay: Pay) -> Persist | None:
        """Take a voucher that was checked. One that is not higher than the last changes nothing."""
        before = self._account.voucher
        self._account.raise_voucher(pay.amount)
        if self._account.voucher == before:
            return None
        return self._keep(voucher=pay.amount, voucher_signature=pay.signature)

    def reserve(self, key: int, limit: int) -> None:
        """Let request `key` spend up to `limit` in all; PaymentRequired when the voucher or the
        deposit does not cover that.
        """
        self._account.reserve(key, limit)
        self._open.setdefault(key, frozenset())

    def promise_accounts(self, key: int, paid: frozenset[bytes]) -> None:
        """Note who may share the fee of request `key`; NoChannel when the channel would pay more
        accounts than it may.
        """
        accounts = {account for account, _ in self._next.payouts.rows}.union(
            paid, *self._open.values()
        )
        if len(accounts) > MAX_CHANNEL_ACCOUNTS:
            raise NoChannel(
                f"this channel would pay {len(accounts)} accounts; {MAX_CHANNEL_ACCOUNTS} is the"
                " most: open another one"
            )
        if key in self._open:
            self._open[key] = paid

    # --- receipts ---

    def draft(
        self,
        key: int,
        deal: Deal,
        answer_ids: Sequence[int],
        now: int,
        drawn: Drawn = NOTHING,
    ) -> Persist:
        """End request `key` with the channel's next receipt, signed by this node at `now` (Unix
        seconds). `drawn` belongs to a whole answer alone.
        """
        receipt = deal.receipt(self._notary.network, self._next, answer_ids, drawn)
        signature = self._notary.sign_receipt(receipt)
        draft = Draft(encode_receipt(receipt), signature, deal.terms, deal.policy, made_at=now)
        self._account.shrink(key, receipt.amount)
        self._open.pop(key, None)
        after = draft.follow(self._next)
        self._drafts.append(_Shown(key, draft, after))
        return self._keep(drafts=self._kept_drafts())

    def settle(self, client_signature: bytes) -> Persist:
        """Give the oldest draft the client's signature; BadRequest when it is not the client's."""
        first = self._drafts[0]
        draft = first.draft
        signed = SignedReceipt(draft.body, draft.node_signature, client_signature)
        try:
            verified = self._notary.verify_receipt(signed)
        except ProofError as error:
            raise BadRequest(f"the receipt's signature is not valid: {error}") from error
        self._drafts.pop(0)
        self._account.settle(first.key, verified.receipt.amount)
        self._settled = first.after
        return self._keep(verified, drafts=self._kept_drafts(), **_standing(self._settled))

    def settle_alone(self) -> list[Persist]:
        """End every draft without its client's signature, oldest first: of a client that pays over
        HTTP and signs no receipts its vouchers are the consent.
        """
        done = []
        while self._drafts:
            first = self._drafts.pop(0)
            draft = first.draft
            signed = SignedReceipt(draft.body, draft.node_signature, NO_SIGNATURE)
            verified = None if draft.is_sent else self._notary.verify_receipt(signed)
            self._account.settle(first.key, first.after.cumulative - self._settled.cumulative)
            self._settled = first.after
            kept = self._kept_drafts()
            done.append(self._keep(verified, drafts=kept, **_standing(self._settled)))
        return done

    # --- grace ---

    @property
    def due_at(self) -> float:
        """When `tick` has something to do, in Unix seconds; never: infinity."""
        unsent = (one.draft.made_at for one in self._drafts if not one.draft.is_sent)
        return min(unsent, default=math.inf) + self._grace_s

    def tick(self, now: float) -> list[Persist]:
        """Make receipts of the drafts whose time is over at `now` (Unix seconds), oldest first."""
        done = []
        for place, one in enumerate(self._drafts):
            draft = one.draft
            if not draft.is_sent and now >= draft.made_at + self._grace_s:
                sent = msgspec.structs.replace(draft, is_sent=True)
                self._drafts[place] = replace(one, draft=sent)
                signed = SignedReceipt(draft.body, draft.node_signature, NO_SIGNATURE)
                verified = self._notary.verify_receipt(signed)
                done.append(self._keep(verified, drafts=self._kept_drafts()))
        return done

    @property
    def is_in_use(self) -> bool:
        """Whether a request has money reserved that no receipt speaks about."""
        return bool(self._open)

    def owes(self, key: int) -> bool:
        """Whether request `key` has money reserved that no receipt speaks about."""
        return key in self._open

    def release(self, key: int) -> None:
        """Request `key` costs nothing."""
        if key in self._open:
            del self._open[key]
            self._account.release(key)

    def check(self) -> None:
        """Raise AssertionError unless the account holds, the drafts form one chain behind the last
        receipt, and the row says all of it.
        """
        self._account.check()
        position = self.row.position
        assert position == self._settled, "the chain's end is not known"
        for one in self._drafts:
            receipt = decode_body(one.draft.body)
            assert receipt.sequence == position.sequence, "a draft is out of order"
            assert receipt.previous == position.previous, "a draft does not follow the one before"
            assert receipt.cumulative == position.cumulative + receipt.amount, (
                "a draft's sum is wrong"
            )
            assert self._account.reserved_for(one.key) == receipt.amount, "a draft is not reserved"
            position = one.draft.follow(position)
            assert position == one.after, "where a draft leads is not known"
            assert receipt.payouts == position.payouts.commitment, "a draft's payouts are wrong"
        assert self._kept_drafts() == self.row.drafts, "a draft is not kept"
        assert self._account.settled == self.row.cumulative, "a receipt is not kept"
        assert self._account.voucher == self.row.voucher, "a voucher is not kept"

    def _kept_drafts(self) -> tuple[Draft, ...]:
        return tuple(one.draft for one in self._drafts)

    def _keep(self, receipt: VerifiedReceipt | None = None, /, **changes: object) -> Persist:
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
      lost, and what it reserved stays reserved until the node's next offer (`release_lost`).
    - `cosign_pending` signs for a request that broke off, if it was paid here, on its terms.
    - What was paid and not ended is remembered over restarts.
    """

    def __init__(self, row: ChannelRow, notary: Notary) -> None:
        self.row = row
        self.low = 0
        self._notary = notary
        self._account = Account(row.cumulative, row.voucher, row.funds.deposit)
        self._settled = row.position
        self._keys = itertools.count(1)
        self._promised = {next(self._keys): promised for promised in row.promised}
        self._lost = set(self._promised)
        for key, promised in self._promised.items():
            self._account.restore(key, promised.reserved)

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

    # --- the chain ---

    @property
    def is_low(self) -> bool:
        """Whether more should be deposited before a request needs it: less than `low` is free."""
        return self._account.free < self.low

    def note(self, funds: Funds) -> Persist:
        """Take over what is known about the money in the channel."""
        self._account.deposit = funds.deposit
        return self._keep(funds=funds)

    # --- paying ---

    def begin(self, deal: Deal) -> int:
        """Name one more request, on these terms."""
        key = next(self._keys)
        body = deal.receipt(self._notary.network, FIRST, ())
        self._promised[key] = Promised(body, deal.terms, deal.policy)
        return key

    def missing(self, key: int, limit: int) -> int:
        """By how much the deposit is too small for request `key` to spend up to `limit`."""
        return self._account.missing(key, limit)

    def is_shared(self, key: int) -> bool:
        """Whether other requests have reserved something that they may leave."""
        return self._account.reserved > self._account.reserved_for(key)

    def pay(self, key: int, limit: int) -> Payment:
        """Let request `key` spend up to `limit` beside everything else; nothing may be `missing`.

        NodeAtOdds when the node has shown a receipt that ends this request: of an honest one, too,
        where the request's stream broke behind tokens that were under way.
        """
        if key not in self._promised:
            raise NodeAtOdds("the node went on with an answer that it had billed as broken off")
        amount = self._account.want(key, limit)
        before = self.row
        self._promised[key] = msgspec.structs.replace(self._promised[key], limit=limit)
        changes: dict[str, object] = {"promised": self._remembered()}
        if amount > before.voucher or not before.voucher_signature:
            signature = self._notary.sign_voucher(self.channel_id, amount)
            changes |= {"voucher": amount, "voucher_signature": signature}
        persist = self._keep(**changes)
        pay = Pay(limit, self.row.voucher, self.row.voucher_signature)
        return Payment(pay, persist if self.row != before else None)

    def leave(self, key: int) -> None:
        """The stream of request `key` ended; if no receipt closed it, the node may still show
        one.
        """
        if key in self._promised:
            self._lost.add(key)

    def release_lost(self) -> Persist | None:
        """The node made an offer: whatever it may claim it has shown, or shows later; what lost
        requests reserved may be promised again.
        """
        self._release_lost()
        promised = self._remembered()
        return self._keep(promised=promised) if promised != self.row.promised else None

    # --- receipts ---

    def cosign(
        self,
        key: int,
        deal: Deal,
        answer_ids: Sequence[int],
        body: bytes,
        node_signature: bytes,
        drawn: Drawn = NOTHING,
    ) -> Signed:
        """Sign the receipt of request `key` if it is the one that this side would have written;
        NodeCheated names the first field that differs; NodeAtOdds where that is only its place in
        the channel.
        """
        with _blaming(NodeCheated):
            given = self._read_draft(body, node_signature)
        if given.drawn != drawn:
            raise NodeCheated(
                f"the node's receipt says that this answer drew on {given.drawn!r:.200}, and it"
                f" drew on {drawn!r:.200}; it is not signed"
            )
        with _blaming(NodeAtOdds):
            own = deal.receipt(self._notary.network, self._settled, answer_ids, drawn)
        _check_same(own, given, "this answer")
        self._settle(key, own.amount)
        return self._sign(given, body, node_signature, deal.terms, policy=deal.policy)

    def cosign_pending(self, body: bytes, node_signature: bytes) -> Signed:
        """Sign a receipt over an answer that broke off: one that was paid here, on its terms, next
        in the channel, and within its limit.

        NodeCheated where its terms are others; NodeAtOdds where this side may have forgotten, its
        disk being an older one; NoChannel where nobody can know.
        """
        with _blaming(NodeAtOdds):
            receipt = self._read_draft(body, node_signature)
        if digest_of(body) == self.row.previous:  # signed before; the node did not get it
            signature = self._notary.sign_receipt(receipt)
            return Signed(receipt, digest_of(body), signature, persist=None)
        if receipt.drawn:  # of an honest node whose stream broke behind its last token, too
            raise NoChannel(
                "the node shows an unsigned receipt that says what an answer drew on, which cannot"
                " be recomputed once the answer broke off; it is not signed, and this channel is"
                " left: ask again, in another one"
            )
        key = self._find(receipt)
        promised = self._promised[key]
        self._check_pending(key, receipt)
        if promised.is_released:
            self._release_lost()
        self._settle(key, receipt.amount)
        terms = promised.terms
        return self._sign(receipt, body, node_signature, terms, policy=promised.policy)

    def release(self, key: int) -> Persist | None:
        """Request `key` is over and cost nothing."""
        self._forget(key)
        self._account.release(key)
        promised = self._remembered()
        return self._keep(promised=promised) if promised != self.row.promised else None

    def check(self) -> None:
        """Raise AssertionError unless the account holds and the row says all of it."""
        self._account.check()
        assert self._lost <= set(self._promised), "a lost request is not known"
        assert self._account.settled == self.row.cumulative, "a receipt is not kept"
        assert self._account.voucher == self.row.voucher, "a voucher is not kept"
        assert self._account.reserved == self.row.reserved, "a paid request is not kept"

    def _find(self, receipt: Receipt) -> int:
        """Which paid request a receipt is about."""
        seeds = {
            key: promised.body
            for key, promised in self._promised.items()
            if promised.limit and promised.body.seed == receipt.seed
        }
        # Where an answer went on in the channel in which it broke off, two of them have one seed.
        for key, body in seeds.items():
            if body.prompt_commitment == receipt.prompt_commitment:
                return key
        for key in seeds:
            return key
        raise NodeAtOdds(
            "the node shows an unsigned receipt over an answer that was not paid here, or has one;"
            " it is not signed"
        )

    def _check_pending(self, key: int, receipt: Receipt) -> None:
        """Check what can be known about an answer that was never seen whole."""
        promised = self._promised[key]
        with _blaming(NodeAtOdds):
            own = promised.receipt(self._settled, receipt)
        is_it = own.prompt_commitment == receipt.prompt_commitment
        _check_same(own, receipt, "the request it is for", NodeCheated if is_it else NodeAtOdds)
        if receipt.amount > promised.limit:
            raise NodeAtOdds(
                f"the node bills {receipt.amount} for an answer that was to cost {promised.limit}"
            )
        beside = set(self._promised) - {key}
        if promised.is_released:  # then so is what else was lost, if that is what it takes
            beside -= self._lost
        others = sum(self._account.reserved_for(each) for each in beside)
        if receipt.cumulative + others > self.row.voucher:
            raise PaymentRequired(
                f"the node shows an unsigned receipt over {receipt.cumulative} while {others} of"
                f" the {self.row.voucher} vouched for is reserved by requests that run; ask again"
                " when they ended"
            )

    def _release_lost(self) -> None:
        for key in self._lost:
            self._account.release(key)
            self._promised[key] = msgspec.structs.replace(self._promised[key], is_released=True)

    def _remembered(self) -> tuple[Promised, ...]:
        """What a row keeps: everything that was paid, as far as there is room; the one lost for
        longest goes first.
        """
        lost = [key for key in self._promised if key in self._lost]
        for key in lost[: max(len(self._promised) - MAX_PROMISED, 0)]:
            self._forget(key)
            self._account.release(key)
        return tuple(promised for promised in self._promised.values() if promised.limit)

    def _forget(self, key: int) -> None:
        self._promised.pop(key, None)
        self._lost.discard(key)

    def _settle(self, key: int, amount: int) -> None:
        """End a request with a receipt."""
        limit = self._promised[key].limit if key in self._promised else 0
        if amount > limit:
            raise NodeAtOdds(f"the node bills {amount} for an answer that was to cost {limit}")
        self._account.settle(key, amount)
        self._forget(key)

    def _read_draft(self, body: bytes, node_signature: bytes) -> Receipt:
        return self._notary.read_draft(body, node_signature, self.row.operator)

    def _sign(
        self,
        receipt: Receipt,
        body: bytes,
        node_signature: bytes,
        terms: AdapterTerms | None,
        *,
        policy: SharePolicy,
    ) -> Signed:
        signature = self._notary.sign_receipt(receipt)
        verified = self._notary.verify_receipt(SignedReceipt(body, node_signature, signature))
        self._settled = _after(receipt, verified.digest, terms, policy, position=self._settled)
        persist = self._keep(verified, promised=self._remembered(), **_standing(self._settled))
        return Signed(receipt, verified.digest, signature, persist)

    def _keep(self, receipt: VerifiedReceipt | None = None, /, **changes: object) -> Persist:
        self.row = msgspec.structs.replace(self.row, **changes)
        return Persist(self.row, receipt)


def _after(
    receipt: Receipt,
    digest: bytes,
    terms: AdapterTerms | None,
    policy: SharePolicy,
    *,
    position: Position,
) -> Position:
    """Where the next receipt stands, after this one at `position`."""
    payouts = position.payouts.award(derive_shares(receipt, terms, policy), receipt.amount)
    return Position(receipt.sequence + 1, digest, receipt.cumulative, payouts)


def _standing(position: Position) -> dict[str, object]:
    """What a row says of the receipts before a position."""
    return {
        "sequence": position.sequence - 1,
        "previous": position.previous,
        "cumulative": position.cumulative,
        "payouts": position.payouts.rows,
    }


@contextmanager
def _blaming(fault: type[RemoteError]) -> Iterator[None]:
    """Say of what is no valid receipt whose fault that is."""
    try:
        yield
    except ProofError as error:
        raise fault(f"the node's receipt is not valid: {error}") from error


def _check_same(
    own: Receipt, given: Receipt, what: str, fault: type[RemoteError] = NodeCheated
) -> None:
    """Raise `fault` that names the first field in which the node's receipt is another one;
    NodeAtOdds where only its place in the channel is: one of the two lost count, by an older disk
    or a stream that broke.
    """
    difference = find_difference(own, given)
    if (own.sequence, own.previous) != (given.sequence, given.previous):
        place = {name: getattr(given, name) for name in PLACE}
        beside = find_difference(msgspec.structs.replace(own, **place), given)
        difference = beside or difference
        fault = fault if beside else NodeAtOdds
    if difference is not None:
        wrong = f"{getattr(given, difference)!r:.80}, not {getattr(own, difference)!r:.80}"
        raise fault(
            f"the node's receipt has another {difference} than {what}: {wrong}; it is not signed"
        )
