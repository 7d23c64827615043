"""A key that sends transactions. Decides nonces, fees and gas; does not know what the calls mean."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..signing import Signer
from .errors import ChainUnreachable, ContractReverted, NonceTaken, RpcRefused, TransactionFailed, TransactionStuck, Underpriced
from .rpc import Rpc
from .transaction import Fees, SignedTransaction, sign_transaction

CONFIRM_DEADLINE_S = 60.0
FIRST_POLL_S = 0.02
SLOWEST_POLL_S = 1.0
GAS_MARGIN_PERCENT = 20
FALLBACK_TIP_WEI = 10**9
NONCE_RETRIES = 3
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
    logs: tuple[dict[str, Any], ...]


class Wallet:
    """One key on one chain. Threads may share it: a nonce is taken and its transaction sent under one lock."""

    def __init__(self, rpc: Rpc, secret: bytes, chain_id: int) -> None:
        self._rpc = rpc
        self._chain_id = chain_id
        self._lock = threading.Lock()
        self.signer = Signer(secret)
        self.address = self.signer.address

    def send(self, to: bytes, data: bytes, deadline_s: float = CONFIRM_DEADLINE_S) -> TransactionReceipt:
        """Send a call and wait until it is in a block. ContractReverted when it would fail: then nothing is sent."""
        signed = self._send(to, data, self.estimate_gas(to, data), NONCE_RETRIES)
        try:
            return self.wait(signed.hash, deadline_s)
        except TransactionFailed:
            self.estimate_gas(to, data)  # says by name why it would fail now, which is most likely why it did
            raise

    def estimate_gas(self, to: bytes, data: bytes) -> int:
        """Gas for this call, with a margin."""
        # "latest" said aloud: some nodes would estimate on top of what waits in their pool, our own transaction included
        estimate = int(self._rpc.call("eth_estimateGas", self._call(to, data), "latest"), 16)
        return estimate * (100 + GAS_MARGIN_PERCENT) // 100

    def next_nonce(self) -> int:
        """The nonce after everything that the node has from this key."""
        return int(self._rpc.call("eth_getTransactionCount", as_hex(self.address), "pending"), 16)

    def mined_nonce(self) -> int:
        """The nonce after everything of this key that is in a block."""
        return int(self._rpc.call("eth_getTransactionCount", as_hex(self.address), "latest"), 16)

    def suggest_fees(self) -> Fees:
        """Enough for several full blocks in a row."""
        try:
            tip = int(self._rpc.call("eth_maxPriorityFeePerGas"), 16)
        except RpcRefused:
            tip = FALLBACK_TIP_WEI
        base = int(self._rpc.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)
        return Fees(2 * base + tip, tip)

    def sign(self, to: bytes, data: bytes, gas: int, nonce: int, fees: Fees) -> SignedTransaction:
        """A signed transaction; sends nothing. No `to` creates a contract."""
        return sign_transaction(self.signer, self._chain_id, nonce, fees, gas, to, data)

    def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node; that it has it already is as good."""
        try:
            self._rpc.call("eth_sendRawTransaction", as_hex(raw))
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

    def wait(self, transaction_hash: bytes, deadline_s: float) -> TransactionReceipt:
        """The receipt, as soon as there is one. TransactionFailed, TransactionStuck."""
        until, pause = time.monotonic() + deadline_s, FIRST_POLL_S
        while (receipt := self.find_receipt(transaction_hash)) is None:
            if time.monotonic() > until:
                raise TransactionStuck(f"transaction {as_hex(transaction_hash)} is not mined after {deadline_s:.0f} s; it may be later")
            time.sleep(pause)
            pause = min(pause * 2, SLOWEST_POLL_S)
        return receipt

    def find_receipt(self, transaction_hash: bytes) -> TransactionReceipt | None:
        """A mined transaction's receipt; raises when the transaction failed."""
        answer = self._rpc.call("eth_getTransactionReceipt", as_hex(transaction_hash))
        if answer is None or answer.get("blockNumber") is None:
            return None
        if int(answer["status"], 16) != 1:
            raise TransactionFailed(f"transaction {as_hex(transaction_hash)} failed in block {int(answer['blockNumber'], 16)}")
        contract = bytes.fromhex((answer.get("contractAddress") or "0x")[2:])
        return TransactionReceipt(transaction_hash, int(answer["blockNumber"], 16), int(answer["gasUsed"], 16), contract, tuple(answer["logs"]))

    def _send(self, to: bytes, data: bytes, gas: int, retries: int) -> SignedTransaction:
        try:
            with self._lock:
                signed = self.sign(to, data, gas, self.next_nonce(), self.suggest_fees())
                with suppress(ChainUnreachable):  # it may have arrived all the same: the wait tells
                    self.broadcast(signed.raw)
                return signed
        except NonceTaken:  # another process with this key was faster
            if not retries:
                raise
        return self._send(to, data, gas, retries - 1)

    def _call(self, to: bytes, data: bytes) -> dict[str, str]:
        return {"from": as_hex(self.address), "data": as_hex(data)} | ({"to": as_hex(to)} if to else {})


def as_hex(data: bytes) -> str:
    """Bytes as 0x text."""
    return "0x" + data.hex()
