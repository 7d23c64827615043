"""Posts headers so that each is on the chain exactly once, whatever happens to this process.

    journal: signed transaction  →  send  →  wait  →  journal: confirmed

The signed transaction is stored before anybody sees it. So a restart knows every transaction that
may be under way, sends the same bytes again, and takes the receipt of whichever is mined. All
attempts for an epoch share a nonce while it is free, also those of a header that was unsealed and
of the one in its place, and the contract takes each epoch once: two of them can't both succeed.

Knows one key and one contract; not what a header means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ..epoch import EpochHeader
from ..ledger import PostAttempt, PostJournal
from .client import ChainClient
from .errors import (
    ContractReverted,
    FeeTooHigh,
    HeaderConflict,
    NonceTaken,
    TransactionFailed,
    TransactionStuck,
    Underpriced,
)
from .structs import ANYWHERE, Anchor, Fees

POST_DEADLINE_S = 300.0
FIRST_POLL_S = 0.02
SLOWEST_POLL_S = 2.0
STRANDED = ("WrongBranch", "Expired")  # what the contract says of an anchor


@dataclass(frozen=True)
class Posted:
    """Where a header is on the chain.

    `gas_used` is None when a transaction that we do not know brought it.
    """

    epoch: int
    transaction: bytes
    block: int
    gas_used: int | None


@dataclass(frozen=True)
class PostPolicy:
    """How patient to be. What may be offered is the wallet's to say."""

    confirmations: int = 1  # blocks, its own included
    bump_after_s: float = 30.0
    max_attempts: int = 20  # per epoch


class Poster:
    """Posts one header at a time; one poster per key."""

    def __init__(
        self,
        client: ChainClient,
        journal: PostJournal,
        policy: PostPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._wallet = client.wallet
        self._journal = journal
        self._policy = policy or PostPolicy()
        self._clock = clock
        self._sleep = sleep
        self._sent: dict[bytes, float] = {}  # when this call first sent an attempt
        self._signatures: tuple[bytes, ...] = ()
        self._anchor = ANYWHERE
        self._nonces = ExitStack()  # of this call's attempts: the wallet leaves them to us

    def post(
        self,
        header: EpochHeader,
        witness_signatures: Sequence[bytes] = (),
        deadline_s: float = POST_DEADLINE_S,
        *,
        anchor: Anchor = ANYWHERE,
    ) -> Posted:
        """Bring this header onto the chain, or find that it is there; its witnesses' signatures by
        ascending address.

        What is signed from now on names the `anchor`; earlier attempts keep theirs, and where they
        cannot be mined any more, a new one takes their nonce. Call it again after any failure.

        ContractReverted when the contract refuses it, HeaderConflict, TransactionStuck after the
        deadline, ChainUnreachable.
        """
        self._signatures = tuple(witness_signatures)
        self._anchor = anchor
        self._sent.clear()  # a reorganisation may have thrown out what was sent
        with ExitStack() as self._nonces:
            return self._post(header, self._clock() + deadline_s, deadline_s)

    def _post(self, header: EpochHeader, until: float, deadline_s: float) -> Posted:
        pause = FIRST_POLL_S
        while True:
            posted = self.find(header)
            if posted is not None and self._is_deep(posted):
                self._journal.confirm(header.epoch, posted.transaction, posted.block)
                return posted
            if self._clock() >= until:
                raise TransactionStuck(
                    f"the header of epoch {header.epoch} is not posted after {deadline_s:.0f} s;"
                    " post it again"
                )
            if posted is None:
                self._push_or_find(header)
            self._sleep(pause)
            pause = min(2 * pause, SLOWEST_POLL_S)

    def find(self, header: EpochHeader) -> Posted | None:
        """Where this header is on the chain, however deep; None when it is not. HeaderConflict."""
        found = self._client.settlement.find_header_hash(header.epoch)
        if found is None:
            return None
        if found != header.hash:
            raise HeaderConflict(
                f"the chain has another header for epoch {header.epoch}; compare the ledger with"
                " the chain before going on"
            )
        return self._find_own(header) or self._find_foreign(header.epoch)

    def first_unposted(self) -> int:
        """The first epoch whose header is not on the chain: after the last that we posted, or
        earlier where a reorganisation took headers back.
        """
        self._journal.forget_posted(self._client.settlement.last_epoch() + 1)
        return self._journal.last_posted() + 1

    # ── inside ──

    def _is_deep(self, posted: Posted) -> bool:
        head = self._client.rpc.block_number()
        return head - posted.block + 1 >= self._policy.confirmations

    def _find_own(self, header: EpochHeader) -> Posted | None:
        for attempt in self._own_attempts(header):
            try:
                receipt = self._wallet.find_receipt(attempt.hash)
            except TransactionFailed:
                continue
            if receipt is not None:
                return Posted(header.epoch, receipt.hash, receipt.block, receipt.gas_used)
        return None

    def _own_attempts(self, header: EpochHeader) -> list[PostAttempt]:
        return [one for one in self._journal.attempts(header.epoch) if one.header == header.hash]

    def _find_foreign(self, epoch: int) -> Posted | None:
        posted = self._client.settlement.find_header(epoch)
        return None if posted is None else Posted(epoch, posted.transaction, posted.block, None)

    def _push_or_find(self, header: EpochHeader) -> None:
        try:
            self._push(header)
        except (
            ContractReverted
        ):  # an attempt that is mined between our look and this makes the next one invalid
            if self.find(header) is None:
                raise

    def _push(self, header: EpochHeader) -> None:
        """Have an attempt under way: the last one if it can still be mined, a dearer one if it
        waits too long.
        """
        attempt = self._find_usable(header.epoch)
        if attempt is None:
            attempt = self._sign(header, self._wallet.next_nonce(), self._wallet.suggest_fees())
        elif attempt.header != header.hash:
            attempt = self._supersede(header, attempt)
        elif (attempt.hash not in self._sent and self._is_stranded(attempt)) or (
            self._clock() - self._sent.get(attempt.hash, self._clock()) >= self._policy.bump_after_s
        ):
            attempt = self._bump(header, attempt)
        if attempt.hash not in self._sent:
            self._send(attempt)

    def _find_usable(self, epoch: int) -> PostAttempt | None:
        """The newest attempt, unless its nonce is used up, or out of reach behind one that was
        dropped.
        """
        attempts = self._journal.attempts(epoch)
        if not attempts:
            return None
        usable = self._wallet.mined_nonce() <= attempts[-1].nonce <= self._wallet.next_nonce()
        return attempts[-1] if usable else None

    def _sign(self, header: EpochHeader, nonce: int, fees: Fees) -> PostAttempt:
        if len(self._own_attempts(header)) >= self._policy.max_attempts:
            raise TransactionStuck(
                f"the header of epoch {header.epoch} is not posted after"
                f" {self._policy.max_attempts} attempts; look at the chain"
            )
        contract, data = self._client.settlement.encode_post(header, self._signatures, self._anchor)
        signed = self._wallet.sign(
            contract, data, self._wallet.estimate_gas(contract, data), nonce, fees
        )
        attempt = PostAttempt(
            header.hash,
            nonce,
            bytes(signed.raw_transaction),
            bytes(signed.hash),
            max_fee_wei=fees.max_fee_wei,
            tip_wei=fees.tip_wei,
        )
        self._journal.add_attempt(header.epoch, attempt)
        return attempt

    def _supersede(self, header: EpochHeader, attempt: PostAttempt) -> PostAttempt:
        """The header that was sealed in the place of the attempt's, with its nonce, for so much
        more that it takes the attempt's place where that still waits.
        """
        offered = Fees(attempt.max_fee_wei, attempt.tip_wei)
        fees = self._wallet.limits.bump(offered, self._wallet.suggest_fees())
        if fees is None:
            raise FeeTooHigh(
                f"a header that was unsealed may still be mined for epoch {header.epoch}, and to"
                " take its place costs more than max_fee_gwei allows: wait, or raise it"
            )
        return self._sign(header, attempt.nonce, fees)

    def _bump(self, header: EpochHeader, attempt: PostAttempt) -> PostAttempt:
        """The same header and nonce for more money; the old attempt again when that would be too
        much.
        """
        offered = Fees(attempt.max_fee_wei, attempt.tip_wei)
        try:
            fees = self._wallet.limits.bump(offered, self._wallet.suggest_fees())
        except FeeTooHigh:
            fees = None
        if fees is None:
            self._sent.pop(attempt.hash, None)
            return attempt
        return self._sign(header, attempt.nonce, fees)

    def _is_stranded(self, attempt: PostAttempt) -> bool:
        """Whether the contract would refuse this attempt for ever: its branch is gone, or its
        time.
        """
        try:
            self._wallet.estimate_gas(*self._wallet.read_call(attempt.raw))
        except ContractReverted as error:
            return error.error in STRANDED
        return False

    def _send(self, attempt: PostAttempt) -> None:
        try:
            self._wallet.broadcast(attempt.raw)
        except NonceTaken:
            # mined meanwhile, or another transaction took the nonce: the next look at the chain
            # tells
            return
        except Underpriced:
            self._sent[attempt.hash] = self._clock() - self._policy.bump_after_s  # bump at once
            return
        self._sent[attempt.hash] = self._clock()
        self._nonces.enter_context(self._wallet.hold_nonce(attempt.nonce))
