"""A chain in memory: py-evm with one block per transaction.

Knows transactions and blocks; no contract and no network.

For development and tests. Its clock is the real one plus whatever `increase_time` added; a given
clock and a given `randomness` make every block's hash the same each time. With automining off,
transactions wait in a pool until `mine`, so that stuck and replaced transactions can be tried out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eth.abc import (
    BlockHeaderAPI,
    ComputationAPI,
    ExecutionContextAPI,
    ReceiptAPI,
    SignedTransactionAPI,
)
from eth.constants import GENESIS_PARENT_HASH
from eth.exceptions import PyEVMError
from eth.vm.spoof import SpoofTransaction
from eth_tester.backends.pyevm.main import get_default_genesis_params, setup_tester_chain
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

BLOCK_GAS_LIMIT = 30_000_000
POOL_TRANSACTIONS = 1_000
PRICE_BUMP_PERCENT = 10  # what a replacement must pay more, as on real nodes
MAX_ANSWERS = 10_000
CALLER_WEI = 10**30  # what eth_call pretends its sender has


class Rejected(Exception):
    """The chain does not take this transaction; the message is worded as geth words it."""


class Reverted(Exception):
    """A call reverts. `data` is what the contract says."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


@dataclass(frozen=True)
class Call:
    """A message to try out."""

    sender: bytes
    to: bytes
    data: bytes
    value: int = 0


@dataclass(frozen=True)
class Mined:
    """A transaction in its block, with what came of it.

    `first_log` counts the logs before it in the block.
    """

    transaction: SignedTransactionAPI
    receipt: ReceiptAPI
    header: BlockHeaderAPI
    index: int
    first_log: int
    gas_used: int
    contract: bytes


@dataclass(frozen=True)
class Block:
    """A header and its transactions."""

    header: BlockHeaderAPI
    transactions: tuple[Mined, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a call returned, and at what time; None where it would have been the same at any."""

    output: bytes
    at: int | None


class WatchedContext:
    """What a call is run in, as py-evm wants it; says whether the call looked at the clock."""

    def __init__(self, context: ExecutionContextAPI) -> None:
        self._context = context
        self.is_time_asked = False

    @property
    def timestamp(self) -> int:
        """The block's time."""
        self.is_time_asked = True
        return int(self._context.timestamp)

    def __getattr__(self, name: str) -> Any:
        """All else as it is."""
        return getattr(self._context, name)


Outcome = tuple[
    SignedTransactionAPI, ReceiptAPI, int, bytes
]  # with the gas it used and the contract it made


@dataclass
class MemoryChain:
    """One chain, one owner: calls must not overlap."""

    chain_id: int
    code: Mapping[bytes, bytes]
    balances: Mapping[bytes, int]
    clock: Callable[[], float] = time.time
    randomness: Callable[[], bytes] = lambda: os.urandom(32)
    automine: bool = True
    finalized_depth: int | None = 0  # blocks below the head; None: the chain calls nothing final
    mined: dict[bytes, Mined] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    _pool: dict[tuple[bytes, int], SignedTransactionAPI] = field(default_factory=dict)
    _ahead_s: int = 0
    _answers: dict[tuple[Call, int | None], Answer] = field(default_factory=dict)
    _answers_of: bytes = b""  # the head that they hold for

    def __post_init__(self) -> None:
        accounts = {**dict.fromkeys(self.code, 0), **self.balances}
        genesis = {
            a: {"balance": wei, "storage": {}, "code": self.code.get(a, b""), "nonce": 0}
            for a, wei in accounts.items()
        }
        parameters = get_default_genesis_params({"timestamp": int(self.clock())})
        _, self._chain = setup_tester_chain(parameters, genesis, 1)
        type(self._chain).chain_id = self.chain_id
        self.blocks.append(Block(self._chain.get_canonical_block_by_number(0).header))

    # ── transactions ──

    def send(self, raw: bytes) -> bytes:
        """Take a signed transaction; its hash.

        With automining it is in a block when this returns.
        """
        transaction = self._decode(raw)
        if transaction.hash in self.mined or transaction in self._pool.values():
            raise Rejected("already known")
        self._check(transaction)
        if self.automine:
            self._mine([transaction])
        else:
            self._pool[(transaction.sender, transaction.nonce)] = transaction
        return bytes(transaction.hash)

    def mine(self) -> None:
        """One block with what waits in the pool (as far as it can be run), or an empty one."""
        waiting = sorted(self._pool.values(), key=lambda transaction: transaction.nonce)
        self._pool.clear()
        self._mine(waiting)

    def is_waiting(self, transaction_hash: bytes) -> bool:
        """Whether this transaction sits in the pool."""
        return any(transaction.hash == transaction_hash for transaction in self._pool.values())

    def increase_time(self, seconds: int) -> None:
        """Move the clock of all later blocks ahead of the newest one."""
        self._ahead_s = max(self._ahead_s, self.head.timestamp - int(self.clock())) + seconds

    # ── questions ──

    @property
    def head(self) -> BlockHeaderAPI:
        """The newest block's header."""
        return self.blocks[-1].header

    def base_fee(self) -> int:
        """What the next block takes per gas."""
        return int(self._chain.header.base_fee_per_gas)

    def balance(self, account: bytes, height: int | None = None) -> int:
        """An account's wei, now or after a block."""
        return int(self._state(height).get_balance(account))

    def nonce(self, account: bytes, *, pending: bool = False) -> int:
        """How many transactions an account has sent; those that wait count when `pending`."""
        nonce = int(self._state().get_nonce(account))
        while pending and (account, nonce) in self._pool:
            nonce += 1
        return nonce

    def code_at(self, account: bytes, height: int | None = None) -> bytes:
        """A contract's code, now or after a block."""
        return bytes(self._state(height).get_code(account))

    def storage_at(self, account: bytes, slot: int, height: int | None = None) -> int:
        """One word of a contract's storage, now or after a block."""
        return int(self._state(height).get_storage(account, slot))

    def call(self, call: Call, height: int | None = None) -> bytes:
        """What a call returns, now or after a block; Reverted when it reverts. Many ask the same
        before there is another block, and only what looks at the clock may say something else then.
        """
        self._read_clock()
        if self.head.hash != self._answers_of or len(self._answers) >= MAX_ANSWERS:
            self._answers_of = self.head.hash
            self._answers.clear()
        known = self._answers.get((call, height))
        if known is None or known.at not in (None, self._chain.header.timestamp):
            computation, context = self._try(call, height)
            is_of_now = context.is_time_asked and height is None
            at = self._chain.header.timestamp if is_of_now else None
            known = self._answers[call, height] = Answer(bytes(computation.output), at)
        return known.output

    def estimate_gas(self, call: Call) -> int:
        """Gas that is enough for this call; Reverted when it reverts."""
        computation, _ = self._try(call, None)
        num_tokens = sum(4 if byte else 1 for byte in call.data)
        floor = 21_000 + 10 * num_tokens  # EIP-7623
        used = BLOCK_GAS_LIMIT - computation.get_gas_remaining()
        return min(max(used, floor) * 5 // 4, BLOCK_GAS_LIMIT)

    # ── reorganisations ──

    def revert_to(self, height: int, *, time_too: bool = False) -> list[bytes]:
        """Take back every block above this one; their transactions, signed, in their order. What
        waits in the pool goes on waiting. Time goes on too, as it does in a reorganisation, unless
        `time_too` takes it back.
        """
        gone = self.blocks[height + 1 :]
        del self.blocks[height + 1 :]
        transactions = [mined.transaction for block in gone for mined in block.transactions]
        for transaction in transactions:
            del self.mined[bytes(transaction.hash)]
        header = self.head
        database = self._chain.chaindb
        database._set_as_canonical_chain_head(database.db, header, GENESIS_PARENT_HASH)
        self._chain.header = self._chain.create_header_from_parent(header)
        if time_too:
            self._ahead_s = header.timestamp - int(self.clock())
        return [transaction.encode() for transaction in transactions]

    # ── inside ──

    def _state(self, height: int | None = None) -> Any:
        header = None if height is None else self.blocks[height].header
        return self._chain.get_vm(header).state

    def _check(self, transaction: SignedTransactionAPI) -> None:
        nonce = self.nonce(transaction.sender)
        if transaction.nonce < nonce:
            raise Rejected(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        if transaction.nonce > self.nonce(transaction.sender, pending=True):
            raise Rejected(f"nonce too high: next nonce {nonce}, tx nonce {transaction.nonce}")
        if transaction.max_fee_per_gas < self.base_fee():
            raise Rejected("max fee per gas less than block base fee")
        if transaction.gas > BLOCK_GAS_LIMIT:
            raise Rejected("exceeds block gas limit")
        if transaction.gas * transaction.max_fee_per_gas + transaction.value > self.balance(
            transaction.sender
        ):
            raise Rejected("insufficient funds for gas * price + value")
        replaced = self._pool.get((transaction.sender, transaction.nonce))
        if replaced and transaction.max_fee_per_gas * 100 < replaced.max_fee_per_gas * (
            100 + PRICE_BUMP_PERCENT
        ):
            raise Rejected("replacement transaction underpriced")
        if len(self._pool) >= POOL_TRANSACTIONS:
            raise Rejected("txpool is full")

    def _decode(self, raw: bytes) -> SignedTransactionAPI:
        try:
            transaction: SignedTransactionAPI = (
                self._chain.get_vm().get_transaction_builder().decode(raw)
            )
            transaction.check_signature_validity()
            transaction.validate()
        except (RLPException, PyEVMError, ValidationError, ValueError) as error:
            raise Rejected(f"no valid transaction: {error}") from error
        if transaction.chain_id != self.chain_id:
            raise Rejected(
                f"invalid chain id {transaction.chain_id}; this is chain {self.chain_id}"
            )
        return transaction

    def _read_clock(self) -> None:
        """The next block is of now, and later than the one before it.

        Many blocks within a second carry the chain's time ahead; it goes on from there, or it would
        stand still until the clock is there as well.
        """
        now = int(self.clock())
        timestamp = max(self.head.timestamp + 1, now + self._ahead_s)
        self._ahead_s = max(self._ahead_s, self.head.timestamp - now)
        self._chain.header = self._chain.header.copy(timestamp=timestamp)

    def _mine(self, transactions: list[SignedTransactionAPI]) -> None:
        self._read_clock()
        done: list[Outcome] = []
        gas_before = 0
        for transaction in transactions:
            try:
                _, receipt, computation = self._chain.apply_transaction(transaction)
            except ValidationError as error:
                if self.automine:
                    raise Rejected(str(error)) from error
                continue  # became impossible while it waited: dropped, as from any pool
            contract = computation.msg.storage_address if computation.msg.is_create else b""
            done.append((transaction, receipt, receipt.gas_used - gas_before, bytes(contract)))
            gas_before = receipt.gas_used
        header = self._chain.mine_block(mix_hash=self.randomness(), blob_gas_used=0).header
        self.blocks.append(Block(header, tuple(number_logs(header, done))))
        self.mined.update(
            (bytes(mined.transaction.hash), mined) for mined in self.blocks[-1].transactions
        )

    def _try(self, call: Call, height: int | None) -> tuple[ComputationAPI, WatchedContext]:
        self._read_clock()
        vm = self._chain.get_vm(None if height is None else self.blocks[height].header)
        context = WatchedContext(vm.state.execution_context)
        vm.state.execution_context = context
        snapshot = vm.state.snapshot()
        vm.state.set_balance(call.sender, CALLER_WEI)
        transaction = vm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=vm.state.get_nonce(call.sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=vm.get_header().base_fee_per_gas,
            gas=BLOCK_GAS_LIMIT,
            to=call.to,
            value=call.value,
            data=call.data,
            access_list=(),
        )
        computation = vm.state.apply_transaction(SpoofTransaction(transaction, from_=call.sender))
        vm.state.revert(snapshot)
        if computation.is_error:
            raise Reverted(bytes(computation.output))
        return computation, context


def number_logs(header: BlockHeaderAPI, outcomes: list[Outcome]) -> Iterator[Mined]:
    """A block's transactions, in their order."""
    num_logs = 0
    for index, (transaction, receipt, gas_used, contract) in enumerate(outcomes):
        yield Mined(
            transaction,
            receipt,
            header,
            index,
            first_log=num_logs,
            gas_used=gas_used,
            contract=contract,
        )
        num_logs += len(receipt.logs)
