"""A node that is simulated: it answers as one of our chains does, slowly, and counts its calls.

`SparseChain` is a chain of many blocks, of which a few hold headers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from eth_abi import encode
from web3.providers import BaseProvider

from proofs.chain.compiled import load_contract
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import LocalRpc, as_int, error_response
from proofs.chain.structs import header_values
from proofs.digest import keccak
from proofs.epoch import EpochHeader
from proofs.hextext import to_hex
from tests.proofs.chain.world import address


class SlowProvider(BaseProvider):
    """The same answers, each after a while; `sleep` takes the seconds.

    `answering_s` is what the simulated chain itself took, which no real node's client would see.
    """

    def __init__(
        self,
        answer: Callable[[Any], Any],
        pause_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self._answer = answer
        self._pause_s = pause_s
        self._sleep = sleep
        self.calls: Counter[str] = Counter()
        self.answering_s = 0.0

    def make_request(self, method, params):
        self.calls[method] += 1
        self._sleep(self._pause_s)
        start = time.perf_counter()
        answer = self._answer({"id": 1, "method": method, "params": params})
        self.answering_s += time.perf_counter() - start
        return answer


def slow_chain(chain: MemoryChain, pause_s: float, **settings) -> SlowProvider:
    return SlowProvider(LocalRpc(chain).answer, pause_s, **settings)


def block_hash(number: int) -> bytes:
    return keccak(b"block %d" % number)


class SparseChain:
    """A chain of `head` blocks: the settlement contract stands from block `first` on, then a header
    each `stride` blocks.
    """

    def __init__(self, *, head: int, first: int, stride: int, epochs: int, limit: int) -> None:
        self.head = head
        self.first = first
        self.limit = limit
        self.settlement = address("settlement")
        self._logs = {
            first + stride * number: self._log(first + stride * number, number)
            for number in range(1, epochs + 1)
        }
        self._blocks = sorted(self._logs)
        self._views = {
            to_hex(load_contract("Settlement").find("function", name).hash[:4]): value
            for name, value in (("deployedAt", first), ("lastEpoch", epochs))
        }

    def answer(self, request: Any) -> Any:
        method = request["method"]
        params = request["params"]
        match method:
            case "eth_chainId":
                result: Any = "0x1"
            case "eth_blockNumber":
                result = hex(self.head)
            case "eth_getBlockByNumber":
                number = (
                    self.head
                    if isinstance(params[0], str)
                    and params[0]
                    in (
                        "latest",
                        "finalized",
                    )
                    else as_int(params[0])
                )
                result = {
                    "number": hex(number),
                    "hash": to_hex(block_hash(number)),
                    "timestamp": hex(number),
                    "baseFeePerGas": "0x7",
                }
            case "eth_call":
                result = f"0x{self._views[params[0]['data'][:10]]:064x}"
            case "eth_getLogs":
                start, end = (as_int(params[0][key]) for key in ("fromBlock", "toBlock"))
                if end - start + 1 > self.limit:
                    return error_response(
                        1, -32000, f"eth_getLogs is limited to a {self.limit} blocks range"
                    )
                result = [self._logs[block] for block in self._blocks if start <= block <= end]
            case _:
                return error_response(1, -32601, f"no method {method}")
        return {"id": 1, "result": result}

    def _log(self, block: int, number: int) -> dict[str, Any]:
        header = EpochHeader(*sample_values(number))
        event = next(
            entry
            for entry in load_contract("Settlement").abi
            if entry["type"] == "event" and entry["name"] == "Posted"
        )
        values = {value["name"]: sample(value, header) for value in event["inputs"]}
        indexed = [value for value in event["inputs"] if value["indexed"]]
        plain = [value for value in event["inputs"] if not value["indexed"]]
        topics = [to_hex(load_contract("Settlement").find("event", "Posted").hash)] + [
            to_hex(encode((value["type"],), (values[value["name"]],))) for value in indexed
        ]
        types = [kind_of(value) for value in plain]
        return {
            "address": to_hex(self.settlement),
            "topics": topics,
            "data": to_hex(encode(types, [values[value["name"]] for value in plain])),
            "blockNumber": hex(block),
            "blockHash": to_hex(block_hash(block)),
            "transactionHash": to_hex(keccak(b"transaction %d" % number)),
            "transactionIndex": "0x0",
            "logIndex": "0x0",
            "removed": False,
        }


def sample(value: dict[str, Any], header: EpochHeader) -> object:
    """A value for an argument of the event."""
    if value["type"] == "tuple":
        return header_values(header)
    return header.epoch if value["type"].startswith("uint") else header.hash


def kind_of(value: dict[str, Any]) -> str:
    if value["type"] != "tuple":
        return value["type"]
    return f"({','.join(map(kind_of, value['components']))})"


def sample_values(number: int) -> tuple[Any, ...]:
    """A header's fields with this epoch: whole numbers and hashes, by their types."""
    hints = EpochHeader.__annotations__
    return tuple(
        number if "int" in str(hint) else keccak(f"{name} {number}".encode())
        for name, hint in hints.items()
    )
