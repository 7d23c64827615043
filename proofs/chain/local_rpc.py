"""JSON-RPC for a chain in memory: each method is a short function from parameters to what a node
would answer.

Speaks as geth does, with anvil's names for the few things that only a development chain can do.
Knows no HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from web3.providers import BaseProvider
from web3.types import RPCEndpoint, RPCResponse

from ..hextext import from_hex, to_hex
from .evm import Call, MemoryChain, Mined, Rejected, Reverted
from .rpc import Rpc

ZERO_ADDRESS = bytes(20)
PRIORITY_FEE_WEI = 10**9
MAX_BATCH_REQUESTS = 100

Json = Any


class LocalRpc:
    """Answers requests one after another; the caller holds the lock."""

    def __init__(self, chain: MemoryChain) -> None:
        self._chain = chain
        self._methods: dict[str, Callable[..., Json]] = {
            "web3_clientVersion": lambda: "lorikeet-devchain",
            "net_version": lambda: str(chain.chain_id),
            "eth_chainId": lambda: hex(chain.chain_id),
            "eth_blockNumber": lambda: hex(chain.head.block_number),
            "eth_gasPrice": lambda: hex(chain.base_fee() + PRIORITY_FEE_WEI),
            "eth_maxPriorityFeePerGas": lambda: hex(PRIORITY_FEE_WEI),
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda account, block="latest": hex(
                chain.balance(from_hex(account), self._past(block))
            ),
            "eth_getCode": lambda account, block="latest": to_hex(
                chain.code_at(from_hex(account), self._past(block))
            ),
            "eth_getStorageAt": lambda account, slot, block="latest": word(
                chain.storage_at(from_hex(account), as_int(slot), self._past(block))
            ),
            "eth_getTransactionCount": lambda account, block="latest": hex(
                chain.nonce(from_hex(account), pending=block == "pending")
            ),
            "eth_call": lambda call, block="latest", *_: to_hex(
                chain.call(read_call(call), self._past(block))
            ),
            "eth_estimateGas": lambda call, *_: hex(chain.estimate_gas(read_call(call))),
            "eth_sendRawTransaction": lambda raw: to_hex(chain.send(from_hex(raw))),
            "eth_getTransactionReceipt": self._receipt,
            "eth_getTransactionByHash": self._transaction,
            "eth_getBlockByNumber": lambda number, _full=False: self._block(self._height(number)),
            "eth_getLogs": self._logs,
            "evm_setAutomine": lambda on: setattr(chain, "automine", bool(on)),
            "evm_mine": lambda *_: chain.mine(),
            "evm_increaseTime": lambda seconds: chain.increase_time(as_int(seconds)),
            "evm_snapshot": lambda: hex(chain.head.block_number),
            "evm_revert": self._revert,
        }

    def answer(self, request: Json) -> Json:
        """The response to one request or to a batch of them."""
        if isinstance(request, list):
            return [self._answer(one) for one in request[:MAX_BATCH_REQUESTS]]
        return self._answer(request)

    def _answer(self, request: Json) -> Json:
        if not isinstance(request, dict):
            return error_response(None, -32600, "a request is a JSON object")
        number = request.get("id")
        method = self._methods.get(str(request.get("method")))
        if method is None:
            return error_response(
                number, -32601, f"this chain knows no method {request.get('method')!r}"
            )
        try:
            return {"jsonrpc": "2.0", "id": number, "result": method(*request.get("params", ()))}
        except Reverted as error:
            return error_response(number, 3, "execution reverted", to_hex(error.data))
        except Rejected as error:
            return error_response(number, -32000, str(error))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            return error_response(number, -32602, f"invalid parameters: {error}")

    # ── answers that need more than one line ──

    def _height(self, block: str) -> int:
        """A block's number. Rejected where the chain has none so named."""
        head = int(self._chain.head.block_number)
        if block == "earliest":
            return 0
        if block in ("latest", "pending"):
            return head
        if block in ("safe", "finalized"):
            depth = self._chain.finalized_depth
            if depth is None:
                raise Rejected(f"{block} block not found")
            return max(head - depth, 0)
        return as_int(block)

    def _past(self, block: str) -> int | None:
        """The number of a block whose state is asked for; None for the state of now."""
        height = self._height(block)
        if block in ("latest", "pending"):
            return None
        if not 0 <= height < len(self._chain.blocks):
            raise Rejected("header not found")
        return height

    def _revert(self, snapshot: str) -> bool:
        """Go back to a snapshot; False when it was taken back itself."""
        height = as_int(snapshot)
        if height >= len(self._chain.blocks):
            return False
        self._chain.revert_to(height)
        return True

    def _block(self, height: int) -> Json:
        if not 0 <= height < len(self._chain.blocks):
            return None
        header = self._chain.blocks[height].header
        return {
            "number": hex(header.block_number),
            "hash": to_hex(header.hash),
            "parentHash": to_hex(header.parent_hash),
            "timestamp": hex(header.timestamp),
            "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used),
            "baseFeePerGas": hex(header.base_fee_per_gas or 0),
            "stateRoot": to_hex(header.state_root),
            "transactionsRoot": to_hex(header.transaction_root),
            "receiptsRoot": to_hex(header.receipt_root),
            "miner": to_hex(header.coinbase),
            "transactions": [
                to_hex(mined.transaction.hash) for mined in self._chain.blocks[height].transactions
            ],
        }

    def _fee_history(self, count: Json, _newest: str = "latest", percentiles: Json = ()) -> Json:
        headers = [
            block.header for block in self._chain.blocks[-max(1, min(as_int(count), 1024)) :]
        ]
        return {
            "oldestBlock": hex(headers[0].block_number),
            "baseFeePerGas": (
                [hex(header.base_fee_per_gas or 0) for header in headers]
                + [hex(self._chain.base_fee())]
            ),
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
            "reward": [[hex(PRIORITY_FEE_WEI) for _ in percentiles or ()] for _ in headers],
        }

    def _transaction(self, transaction_hash: str) -> Json:
        mined = self._chain.mined.get(from_hex(transaction_hash))
        if mined is None:
            return (
                {"hash": transaction_hash, "blockNumber": None}
                if self._chain.is_waiting(from_hex(transaction_hash))
                else None
            )
        transaction = mined.transaction
        return {
            **place(mined),
            "hash": to_hex(transaction.hash),
            "from": to_hex(transaction.sender),
            "to": to_hex(transaction.to) if transaction.to else None,
            "nonce": hex(transaction.nonce),
            "gas": hex(transaction.gas),
            "input": to_hex(transaction.data),
            "value": hex(transaction.value),
            "type": hex(transaction.type_id or 0),
        }

    def _receipt(self, transaction_hash: str) -> Json:
        mined = self._chain.mined.get(from_hex(transaction_hash))
        if mined is None:
            return None
        transaction = mined.transaction
        receipt = mined.receipt
        header = mined.header
        base_fee = header.base_fee_per_gas or 0
        tip = min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - base_fee)
        return {
            **place(mined),
            "transactionHash": to_hex(transaction.hash),
            "from": to_hex(transaction.sender),
            "to": to_hex(transaction.to) if transaction.to else None,
            "contractAddress": to_hex(mined.contract) if mined.contract else None,
            "status": "0x1" if receipt.state_root == b"\x01" else "0x0",
            "gasUsed": hex(mined.gas_used),
            "cumulativeGasUsed": hex(receipt.gas_used),
            "effectiveGasPrice": hex(base_fee + tip),
            "logs": [render_log(mined, i) for i in range(len(receipt.logs))],
            "logsBloom": to_hex(receipt.bloom.to_bytes(256, "big")),
            "type": hex(transaction.type_id or 0),
        }

    def _logs(self, query: Json) -> Json:
        first = self._height(query.get("fromBlock", "latest"))
        last = self._height(query.get("toBlock", "latest"))
        wanted = query.get("address")
        addresses = (
            None
            if wanted is None
            else {from_hex(one) for one in ([wanted] if isinstance(wanted, str) else wanted)}
        )
        mined = (
            each for block in self._chain.blocks[first : last + 1] for each in block.transactions
        )
        logs = (render_log(each, i) for each in mined for i in range(len(each.receipt.logs)))
        return [
            log
            for log in logs
            if (addresses is None or from_hex(log["address"]) in addresses)
            and fits(log["topics"], query.get("topics"))
        ]


def fits(topics: list[str], pattern: Json) -> bool:
    """Whether a log's topics match a filter: None is anything, a list any of its members."""
    if len(pattern or ()) > len(topics):
        return False
    pairs = zip(topics, pattern or (), strict=False)
    return all(
        want is None
        or topic in ([want.lower()] if isinstance(want, str) else [one.lower() for one in want])
        for topic, want in pairs
    )


def place(mined: Mined) -> dict[str, str]:
    """Where a transaction stands."""
    header = mined.header
    return {
        "blockNumber": hex(header.block_number),
        "blockHash": to_hex(header.hash),
        "transactionIndex": hex(mined.index),
    }


def render_log(mined: Mined, index: int) -> dict[str, Json]:
    """A transaction's log number `index`, as a node shows it."""
    log = mined.receipt.logs[index]
    return {
        **place(mined),
        "transactionHash": to_hex(mined.transaction.hash),
        "address": to_hex(log.address),
        "topics": [word(topic) for topic in log.topics],
        "data": to_hex(log.data),
        "logIndex": hex(mined.first_log + index),
        "removed": False,
    }


class MemoryProvider(BaseProvider):
    """The same answers without HTTP between us, to one thread after another."""

    def __init__(self, chain: MemoryChain) -> None:
        super().__init__()
        self._local = LocalRpc(chain)
        self._lock = threading.Lock()

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The response to one request."""
        with self._lock:
            answer: RPCResponse = self._local.answer({"id": 1, "method": method, "params": params})
        return answer


def memory_rpc(chain: MemoryChain) -> Rpc:
    """A chain in this process, as clients ask any other."""
    return Rpc("memory", provider=MemoryProvider(chain))


def error_response(number: Json, code: int, message: str, data: str | None = None) -> Json:
    """A JSON-RPC error."""
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {"code": code, "message": message} | ({} if data is None else {"data": data}),
    }


def read_call(call: Json) -> Call:
    """A call as JSON-RPC words it."""
    data = call.get("input") or call.get("data") or "0x"
    sender = call.get("from")
    to = call.get("to")
    return Call(
        from_hex(sender) if sender else ZERO_ADDRESS,
        from_hex(to) if to else b"",
        from_hex(data),
        as_int(call.get("value", 0)),
    )


def as_int(value: Json) -> int:
    """A quantity: hexadecimal text, or a plain number."""
    return int(value, 16) if isinstance(value, str) else int(value)


def word(value: int) -> str:
    """A number as 32 bytes of 0x text."""
    return f"0x{value:064x}"
