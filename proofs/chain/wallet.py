"""A key that sends transactions, and sees them into a block.

Decides nonces, fees and gas, within the operator's limits; does not know what the calls mean.

    estimate → sign → send → wait ┬→ it is in a block
                   ↑              └→ it waits too long: dearer, with the same nonce
                   └── never above the limits (fees.py)

What keeps a nonce busy and is nobody's here, as after a crash, is replaced by an empty transfer to
ourselves, so that what stands behind it is mined.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from . import depth  # noqa: F401  # isort: skip  # before what web3 brings
from eth_account import Account
from eth_account.datastructures import SignedTransaction
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from ..hextext import to_hex
from ..signing import Signer
from .answers import Log, MinedTransaction, odd
from .errors import (
    ChainUnreachable,
    ContractReverted,
    FeeTooHigh,
    NonceTaken,
    OddAnswer,
    RpcRefused,
    TransactionFailed,
    TransactionStuck,
    Underpriced,
)
from .fees import FeeLimits
from .rpc import Rpc
from .structs import CONFIRM_DEADLINE_S, Fees

POLL_S = 0.25
FIRST_POLL_S = 0.02
GAS_MARGIN_PERCENT = 20
SPARE_GAS = 150_000
"""What others do before a call is mined may make it dearer by some words that were not there: who
is accused answers just before the next demand. What is not used costs nothing.
"""
MAX_GAS = 100_000_000  # more than any block holds
TRANSFER_GAS = 21_000
RECEIPT_LAG_S = 5.0
"""A node may count a transaction before it shows its receipt: several stand behind one address, and
each learns of a block at its own time. Sending the call anew in that gap would do it twice, or fail
because it is done.
"""
FALLBACK_TIP_WEI = 10**9
NONCE_RETRIES = 3
MAX_BUMPS_TO_UNBLOCK = 40
ALREADY_KNOWN = ("already known", "already imported", "alreadyknown", "known transaction")
UNDERPRICED = ("underpriced", "less than block base fee", "fee too low", "feetoolow")
NONCE_TAKEN = ("nonce too low", "nonce mismatch", "nonce is too low")


@dataclass(frozen=True)
class TransactionReceipt:
    """A transaction that is in a block and did what it should."""

    hash: bytes
    block: int
    gas_used: int
    contract: bytes
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class Message:
    """What a transaction does: whom it calls, with what, for how much gas, and what of the chain's
    own money it gives.
    """

    to: bytes
    data: bytes
    gas: int
    wei: int = 0


@dataclass
class Flight:
    """One message on its way: its nonce, every transaction that was signed for it, the last one's
    fees, when that was sent, and since when the chain counts the nonce as mined.
    """

    message: Message
    nonce: int
    fees: Fees
    sent_at: float
    hashes: list[bytes] = field(default_factory=list)
    raw: bytes = b""
    counted_at: float | None = None


class Wallet:
    """One key on one chain.

    Threads may share it: a nonce is taken and its transaction sent under one lock.
    """

    def __init__(
        self,
        rpc: Rpc,
        secret: bytes,
        chain_id: int,
        limits: FeeLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rpc = rpc
        self._chain_id = chain_id
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._account = Account.from_key(secret)
        self._flying: set[int] = set()
        self.limits = limits or FeeLimits()
        self.signer = Signer(secret)
        self.address = self.signer.address

    def send(
        self, to: bytes, data: bytes, deadline_s: float = CONFIRM_DEADLINE_S
    ) -> TransactionReceipt:
        """Send a call and wait until it is in a block.

        ContractReverted when it would fail, FeeTooHigh: then nothing is sent. TransactionFailed,
        TransactionStuck: it may be mined later.
        """
        return self._send(Message(to, data, self.estimate_gas(to, data)), deadline_s)

    def pay(
        self, to: bytes, wei: int, deadline_s: float = CONFIRM_DEADLINE_S
    ) -> TransactionReceipt:
        """Give an account, which is no contract, of the chain's own money. Raises what `send` does;
        TransactionFailed, or the node's refusal, when there is not so much.
        """
        return self._send(Message(to, b"", TRANSFER_GAS, wei), deadline_s)

    def _send(self, message: Message, deadline_s: float) -> TransactionReceipt:
        until = self._clock() + deadline_s
        for _ in range(NONCE_RETRIES + 1):
            try:
                return self._fly(message, until, deadline_s)
            except NonceTaken as error:  # another process with this key was faster
                taken = error
            except TransactionFailed:
                # says by name why it would fail now, which is most likely why it did
                self.estimate_gas(message.to, message.data)
                raise
        raise taken

    def estimate_gas(self, to: bytes, data: bytes) -> int:
        """Gas for this call, with a margin."""
        gas = self._rpc.estimate_gas(self.address, to, data)
        if gas > MAX_GAS:
            raise odd("a call's gas", f"at most {MAX_GAS}", gas)
        return gas * (100 + GAS_MARGIN_PERCENT) // 100 + SPARE_GAS

    def next_nonce(self) -> int:
        """The nonce after everything that the node has from this key."""
        return self._rpc.nonce(self.address, "pending")

    def mined_nonce(self) -> int:
        """The nonce after everything of this key that is in a block."""
        return self._rpc.nonce(self.address, "latest")

    def suggest_fees(self) -> Fees:
        """Enough for several full blocks in a row, within the limits. FeeTooHigh."""
        try:
            tip = self._rpc.tip()
        except RpcRefused:
            tip = FALLBACK_TIP_WEI
        base = self._rpc.get_block().base_fee_wei
        if base is None:
            raise OddAnswer(
                "the newest block has no baseFeePerGas: the chain is older than EIP-1559, or the"
                " node hides it; name another RPC"
            )
        return self.limits.offer(base, tip)

    def sign(
        self, to: bytes, data: bytes, gas: int, nonce: int, fees: Fees, *, wei: int = 0
    ) -> SignedTransaction:
        """A signed transaction; sends nothing. No `to` creates a contract."""
        call = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "to": to,
            "value": wei,
            "data": data,
        }
        offer = {"maxFeePerGas": fees.max_fee_wei, "maxPriorityFeePerGas": fees.tip_wei, "gas": gas}
        signed: SignedTransaction = self._account.sign_transaction({**call, **offer})
        return signed

    def read_call(self, raw: bytes) -> tuple[bytes, bytes]:
        """Whom a transaction that was signed here calls, and with what."""
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        return bytes(fields["to"]), bytes(fields["data"])

    def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node; that it has it already is as good."""
        try:
            self._rpc.send_raw(raw)
        except ContractReverted:
            raise
        except RpcRefused as error:
            words = error.message.lower()
            if any(known in words for known in ALREADY_KNOWN):
                return
            if any(taken in words for taken in NONCE_TAKEN):
                raise NonceTaken(error.code, error.message) from error
            if any(low in words for low in UNDERPRICED):
                raise Underpriced(error.code, error.message) from error
            raise

    def find_receipt(self, transaction_hash: bytes) -> TransactionReceipt | None:
        """A mined transaction's receipt; raises when the transaction failed."""
        mined = self._rpc.find_mined(transaction_hash)
        return None if mined is None else read_receipt(mined)

    @contextmanager
    def hold_nonce(self, nonce: int) -> Iterator[None]:
        """While the block runs, somebody sees to this nonce: it is not to be unblocked."""
        self._flying.add(nonce)
        try:
            yield
        finally:
            self._flying.discard(nonce)

    # ── inside ──

    def _fly(self, message: Message, until: float, deadline_s: float) -> TransactionReceipt:
        with self._lock:
            nonce = self.next_nonce()
            while nonce in self._flying:  # sent, and the node did not get it: it is sent again
                nonce += 1
            flight = Flight(message, nonce, self.suggest_fees(), sent_at=0.0)
            self._launch(flight)
            self._flying.add(nonce)
        try:
            return self._land(flight, until, deadline_s)
        finally:
            self._flying.discard(nonce)

    def _launch(self, flight: Flight) -> None:
        """Sign with the flight's fees, and send."""
        message = flight.message
        signed = self.sign(
            message.to, message.data, message.gas, flight.nonce, flight.fees, wei=message.wei
        )
        flight.hashes.append(bytes(signed.hash))
        flight.raw = bytes(signed.raw_transaction)
        flight.sent_at = self._clock()
        with suppress(ChainUnreachable, OddAnswer):  # it may have arrived all the same
            self.broadcast(flight.raw)

    def _land(self, flight: Flight, until: float, deadline_s: float) -> TransactionReceipt:
        pause = FIRST_POLL_S
        while True:
            try:
                found = self._find(flight)
                if found is not None:
                    return found
                if self._clock() - flight.sent_at >= self.limits.bump_after_s:
                    self._hurry(flight)
            except (ChainUnreachable, OddAnswer):  # what was sent is under way all the same
                pass
            if self._clock() >= until:
                raise TransactionStuck(
                    f"transaction {to_hex(flight.hashes[-1])} is not mined after {deadline_s:.0f}"
                    f" s, for {flight.fees.max_fee_wei} wei a gas; it may be later"
                )
            self._sleep(pause)
            pause = min(2 * pause, POLL_S)

    def _find(self, flight: Flight) -> TransactionReceipt | None:
        for transaction_hash in reversed(flight.hashes):
            found = self.find_receipt(transaction_hash)
            if found is not None:
                return found
        return None

    def _hurry(self, flight: Flight) -> None:
        """What waits too long is offered more; first what waits before it, if nobody else does."""
        mined = self.mined_nonce()
        if mined > flight.nonce:
            self._await_receipt(flight)
            return
        flight.counted_at = None  # a chain that went back
        if mined < flight.nonce and mined not in self._flying:
            self._unblock(mined)
        flight.sent_at = self._clock()
        if mined == flight.nonce:
            self._bump(flight)

    def _await_receipt(self, flight: Flight) -> None:
        """Its nonce is in a block: by one of its own transactions, or, when none of them shows up
        for long enough, by somebody else's. NonceTaken.
        """
        now = self._clock()
        if flight.counted_at is None:
            flight.counted_at = now
        elif now - flight.counted_at >= RECEIPT_LAG_S and self._find(flight) is None:
            raise NonceTaken(0, f"another transaction took the nonce {flight.nonce}")

    def _bump(self, flight: Flight) -> None:
        try:
            fees = self.limits.bump(flight.fees, self.suggest_fees())
        except FeeTooHigh:
            fees = None
        if fees is None:  # as much as is allowed is offered: the network may have forgotten it
            with suppress(RpcRefused):
                self.broadcast(flight.raw)
            return
        flight.fees = fees
        with suppress(NonceTaken, Underpriced):  # the next look tells, or offers more
            self._launch(flight)

    def _unblock(self, nonce: int) -> None:
        """Replace what keeps this nonce by nothing, for as little more as the node takes."""
        fees: Fees | None = self.suggest_fees()
        for _ in range(MAX_BUMPS_TO_UNBLOCK):
            if fees is None:
                return
            try:
                signed = self.sign(self.address, b"", TRANSFER_GAS, nonce, fees)
                self.broadcast(bytes(signed.raw_transaction))
                return
            except NonceTaken:
                return
            except Underpriced:
                fees = self.limits.bump(fees, fees)


def read_receipt(mined: MinedTransaction) -> TransactionReceipt:
    """What came of a mined transaction. TransactionFailed."""
    if not mined.succeeded:
        raise TransactionFailed(f"transaction {to_hex(mined.hash)} failed in block {mined.block}")
    return TransactionReceipt(
        mined.hash, mined.block, mined.gas_used, mined.contract, logs=mined.logs
    )
