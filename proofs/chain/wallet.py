"""A key that sends transactions.

Decides nonces, fees and gas; does not know what the calls mean.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

from eth_account import Account
from eth_account.datastructures import SignedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from web3.exceptions import TimeExhausted, TransactionNotFound
from web3.types import LogReceipt, TxParams, TxReceipt

from ..hextext import to_hex
from ..signing import Signer
from .errors import (
    ChainUnreachable,
    ContractReverted,
    NonceTaken,
    RpcRefused,
    TransactionFailed,
    TransactionStuck,
    Underpriced,
)
from .rpc import Rpc
from .structs import CONFIRM_DEADLINE_S, Fees

POLL_S = 0.25
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
    logs: tuple[LogReceipt, ...]


class Wallet:
    """One key on one chain.

    Threads may share it: a nonce is taken and its transaction sent under one lock.
    """

    def __init__(self, rpc: Rpc, secret: bytes, chain_id: int) -> None:
        self._eth = rpc.web3.eth
        self._chain_id = chain_id
        self._lock = threading.Lock()
        self._account = Account.from_key(secret)
        self.signer = Signer(secret)
        self.address = self.signer.address

    def send(
        self, to: bytes, data: bytes, deadline_s: float = CONFIRM_DEADLINE_S
    ) -> TransactionReceipt:
        """Send a call and wait until it is in a block.

        ContractReverted when it would fail: then nothing is sent.
        """
        transaction_hash = self._send(to, data, self.estimate_gas(to, data), NONCE_RETRIES)
        try:
            return self.wait(transaction_hash, deadline_s)
        except TransactionFailed:
            self.estimate_gas(
                to, data
            )  # says by name why it would fail now, which is most likely why it did
            raise

    def estimate_gas(self, to: bytes, data: bytes) -> int:
        """Gas for this call, with a margin."""
        # "latest" said aloud: some nodes would estimate on top of what waits in their pool, our own
        # transaction included
        call: TxParams = {
            "from": self._account.address,
            "data": data,
            **({"to": to_checksum_address(to)} if to else {}),
        }
        return self._eth.estimate_gas(call, "latest") * (100 + GAS_MARGIN_PERCENT) // 100

    def next_nonce(self) -> int:
        """The nonce after everything that the node has from this key."""
        return self._eth.get_transaction_count(self._account.address, "pending")

    def mined_nonce(self) -> int:
        """The nonce after everything of this key that is in a block."""
        return self._eth.get_transaction_count(self._account.address, "latest")

    def suggest_fees(self) -> Fees:
        """Enough for several full blocks in a row."""
        try:
            tip = int(self._eth.max_priority_fee)
        except RpcRefused:
            tip = FALLBACK_TIP_WEI
        base = int(self._eth.get_block("latest")["baseFeePerGas"])
        return Fees(2 * base + tip, tip)

    def sign(self, to: bytes, data: bytes, gas: int, nonce: int, fees: Fees) -> SignedTransaction:
        """A signed transaction; sends nothing. No `to` creates a contract."""
        call = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "to": to,
            "value": 0,
            "data": data,
        }
        offer = {"maxFeePerGas": fees.max_fee_wei, "maxPriorityFeePerGas": fees.tip_wei, "gas": gas}
        signed: SignedTransaction = self._account.sign_transaction({**call, **offer})
        return signed

    def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node; that it has it already is as good."""
        try:
            self._eth.send_raw_transaction(raw)
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
        try:
            return read_receipt(
                self._eth.wait_for_transaction_receipt(
                    HexBytes(transaction_hash), deadline_s, POLL_S
                )
            )
        except TimeExhausted as error:
            raise TransactionStuck(
                f"transaction {to_hex(transaction_hash)} is not mined after {deadline_s:.0f} s; it"
                " may be later"
            ) from error

    def find_receipt(self, transaction_hash: bytes) -> TransactionReceipt | None:
        """A mined transaction's receipt; raises when the transaction failed."""
        try:
            return read_receipt(self._eth.get_transaction_receipt(HexBytes(transaction_hash)))
        except TransactionNotFound:
            return None

    def _send(self, to: bytes, data: bytes, gas: int, retries: int) -> bytes:
        try:
            with self._lock:
                signed = self.sign(to, data, gas, self.next_nonce(), self.suggest_fees())
                with suppress(ChainUnreachable):  # it may have arrived all the same: the wait tells
                    self.broadcast(signed.raw_transaction)
                return signed.hash
        except NonceTaken:  # another process with this key was faster
            if not retries:
                raise
        return self._send(to, data, gas, retries - 1)


def read_receipt(receipt: TxReceipt) -> TransactionReceipt:
    """What came of a mined transaction. TransactionFailed."""
    if receipt["status"] != 1:
        raise TransactionFailed(
            f"transaction {to_hex(receipt['transactionHash'])} failed in block"
            f" {receipt['blockNumber']}"
        )
    contract = HexBytes(receipt.get("contractAddress") or b"")
    return TransactionReceipt(
        bytes(receipt["transactionHash"]),
        receipt["blockNumber"],
        receipt["gasUsed"],
        bytes(contract),
        logs=tuple(receipt["logs"]),
    )
