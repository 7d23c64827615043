"""web3, set up for one chain: what its nodes are asked, and what is taken for an answer.

Knows no key. Which node is asked, and how its errors get their names, is in endpoints.py; what an
answer may look like in answers.py. Importing web3 costs most of a second: who may have no chain at
all imports this module when he has one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import requests
import urllib3

from . import depth  # noqa: F401  # isort: skip  # before what web3 brings
from eth_abi import decode, encode  # type: ignore[attr-defined]
from eth_abi.exceptions import DecodingError
from eth_utils.abi import get_abi_output_types
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.exceptions import Web3Exception
from web3.providers import BaseProvider
from web3.types import LogReceipt, RPCEndpoint

from ..hextext import to_hex
from .answers import (
    Block,
    Log,
    MinedTransaction,
    find_block,
    find_mined,
    read_block,
    read_data,
    read_logs,
    read_quantity,
)
from .compiled import load_contract
from .deploy import MULTICALL
from .endpoints import Endpoint, Endpoints, Health, shown
from .errors import OddAnswer, OversizedAnswer, WrongChain
from .pages import LogPages
from .views import LATEST, View

if TYPE_CHECKING:
    from web3.types import EventData

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
REQUEST_DEADLINE_S = 15.0
MAX_CALLS_PER_PAGE = 600


class Rpc:
    """One chain, by one node or several. Safe to share between threads."""

    def __init__(
        self,
        urls: str | Sequence[str],
        deadline_s: float = REQUEST_DEADLINE_S,
        provider: BaseProvider | None = None,
    ) -> None:
        urls = (urls,) if isinstance(urls, str) else tuple(urls)
        self.url = ", ".join(map(shown, urls))
        self._session = (
            requests.Session()
        )  # one for all threads, so that it can be closed; its pool of connections has a lock
        self._session.hooks["response"].append(
            lambda response, **_: read_bounded(response, deadline_s)
        )
        asked = {"timeout": deadline_s, "allow_redirects": False}
        self._endpoints = Endpoints(
            [
                Endpoint(
                    shown(url),
                    provider
                    or HTTPProvider(url, asked, self._session, exception_retry_configuration=None),
                )
                for url in urls
            ]
        )
        self.web3 = Web3(self._endpoints, middleware=[], ens=None)
        self._contracts: dict[tuple[str, bytes], Contract] = {}
        self._pages = LogPages()

    def pin(self, chain_id: int) -> None:
        """Believe only nodes of this chain from now on. WrongChain follows from any other."""
        self._endpoints.pin(chain_id)

    def health(self) -> list[Health]:
        """How each node is doing."""
        return self._endpoints.health()

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    # ── questions, each answered by a value of its type or a ChainError ──

    def call(self, method: str, *params: object) -> Any:
        """The result of one request, as the node words it.

        ChainUnreachable, OddAnswer, RpcRefused, or ContractReverted when a contract says no.
        """
        return self.web3.manager.request_blocking(RPCEndpoint(method), params)

    def chain_id(self) -> int:
        """Which chain this is."""
        return read_quantity(self.call("eth_chainId"), "the chain's id")

    def block_number(self) -> int:
        """The newest block's number."""
        return read_quantity(self.call("eth_blockNumber"), "the newest block's number")

    def get_block(self, block: str | int = LATEST) -> Block:
        """A block that must exist. OddAnswer when the node has none."""
        return read_block(self.call("eth_getBlockByNumber", block_word(block), False))

    def find_block(self, block: str | int) -> Block | None:
        """A block, None when the node knows no such block."""
        return find_block(self.call("eth_getBlockByNumber", block_word(block), False))

    def nonce(self, account: bytes, block: str = LATEST) -> int:
        """How many transactions an account has sent."""
        answer = self.call("eth_getTransactionCount", to_hex(account), block)
        return read_quantity(answer, "an account's nonce")

    def balance(self, account: bytes) -> int:
        """How much of the chain's own money an account has, in wei."""
        return read_quantity(self.call("eth_getBalance", to_hex(account), LATEST), "a balance")

    def code(self, address: bytes, block: str | int = LATEST) -> bytes:
        """A contract's code at a block, empty where there is none."""
        answer = self.call("eth_getCode", to_hex(address), block_word(block))
        return read_data(answer, "a contract's code")

    def try_call(
        self, to: bytes, data: bytes, block: str | int = LATEST, sender: bytes = b""
    ) -> bytes:
        """What a call would return, made by `sender`. ContractReverted when it reverts."""
        message = {"to": to_hex(to), "data": to_hex(data)}
        message |= {"from": to_hex(sender)} if sender else {}
        answer = self.call("eth_call", message, block_word(block))
        return read_data(answer, "what a call returns")

    def estimate_gas(self, sender: bytes, to: bytes, data: bytes) -> int:
        """Gas for this call; no `to` creates a contract. ContractReverted when it would revert."""
        # "latest" said aloud: some nodes would estimate on top of what waits in their pool, our own
        # transaction included
        message = {"from": to_hex(sender), "data": to_hex(data)}
        message |= {"to": to_hex(to)} if to else {}
        return read_quantity(self.call("eth_estimateGas", message, LATEST), "a call's gas")

    def tip(self) -> int:
        """What the node would give to whoever makes the block, in wei for each gas."""
        return read_quantity(self.call("eth_maxPriorityFeePerGas"), "the tip")

    def send_raw(self, raw: bytes) -> None:
        """Hand over a signed transaction."""
        self.call("eth_sendRawTransaction", to_hex(raw))

    def find_mined(self, transaction: bytes) -> MinedTransaction | None:
        """What came of a transaction, None while it is in no block."""
        return find_mined(self.call("eth_getTransactionReceipt", to_hex(transaction)))

    # ── contracts ──

    def contract(self, name: str, address: bytes) -> Contract:
        """One of our contracts, at this address."""
        if (name, address) not in self._contracts:  # to make one takes a millisecond
            self._contracts[name, address] = self.web3.eth.contract(
                to_checksum_address(address), abi=load_contract(name).abi
            )
        return self._contracts[name, address]

    def read(
        self,
        name: str,
        address: bytes,
        function: str,
        *values: object,
        block: str | int = LATEST,
    ) -> tuple[Any, ...]:
        """What a view function of a contract returns, at a block."""
        view = View(name, address, function, values)
        return self._decode(view, self.try_call(address, self._encode(view), block))

    def read_many(
        self, views: Sequence[View], block: str | int = LATEST
    ) -> Iterator[tuple[Any, ...]]:
        """What many view functions return, all at one block: hundreds in one request, by
        Multicall3. ContractReverted when one reverts.
        """
        for start in range(0, len(views), MAX_CALLS_PER_PAGE):
            page = views[start : start + MAX_CALLS_PER_PAGE]
            calls = [(view.address, self._encode(view)) for view in page]
            asked = View("Multicall3", MULTICALL, "tryAggregate", (True, calls))
            (results,) = self._decode(asked, self.try_call(MULTICALL, self._encode(asked), block))
            if len(results) != len(page):
                raise OddAnswer(f"{len(results)} results came for {len(page)} calls")
            for view, (_, data) in zip(page, results, strict=True):
                yield self._decode(view, data)

    def search(
        self,
        name: str,
        address: bytes,
        event: str,
        wanted: Mapping[str, object],
        *,
        first: int,
        last: int,
    ) -> Iterator[EventData]:
        """A contract's events between two blocks, both included, oldest first; `wanted` are values
        of indexed arguments.
        """
        abi = next(
            entry
            for entry in load_contract(name).abi
            if entry["type"] == "event" and entry["name"] == event
        )
        topics: list[str | None] = [to_hex(load_contract(name).find("event", event).hash)]
        for value in (each for each in abi["inputs"] if each["indexed"]):
            wants = wanted.get(value["name"])
            topics.append(None if wants is None else to_hex(encode((value["type"],), (wants,))))
        found = self.contract(name, address).events[event]()
        for log in self.search_logs(address, topics, first, last):
            try:
                yield found.process_log(for_web3(log))
            except (Web3Exception, ValueError, TypeError, KeyError) as error:
                raise OddAnswer(f"a log of {name} is no {event}: {error}") from error

    def search_logs(
        self, address: bytes, topics: Sequence[str | None], first: int, last: int
    ) -> Iterator[Log]:
        """A contract's logs between two blocks, in pages as large as the node allows."""

        def ask(start: int, end: int) -> list[Log]:
            span = {"fromBlock": hex(start), "toBlock": hex(end)}
            logs = read_logs(
                self.call("eth_getLogs", span | {"address": to_hex(address), "topics": topics})
            )
            if any(not start <= log.block <= end or log.address != address for log in logs):
                raise OddAnswer("the node answers with logs of other blocks or contracts")
            return logs

        return self._pages.read(ask, first, last)

    def _encode(self, view: View) -> bytes:
        function = find_function(view.name, view.function)
        return function.selector + bytes(encode(function.inputs, view.values))

    def _decode(self, view: View, data: bytes) -> tuple[Any, ...]:
        if not data:
            there = f"at {to_hex(view.address)} on the chain at {self.url}"
            raise WrongChain(
                f"there is no {view.name} contract {there}; check the addresses and the RPC"
            )
        outputs = find_function(view.name, view.function).outputs
        try:
            return tuple(decode(outputs, data))
        except (DecodingError, ValueError, OverflowError) as error:
            raise WrongChain(
                f"what answers at {to_hex(view.address)} on the chain at {self.url} is no"
                f" {view.name} contract: {error}"
            ) from error


@dataclass(frozen=True)
class Function:
    """How a function is called, and what it returns."""

    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@cache
def find_function(name: str, function: str) -> Function:
    """A function of one of our contracts; looked up once, since pages hold hundreds of calls."""
    contract = load_contract(name)
    entry = next(
        entry for entry in contract.abi if entry["type"] == "function" and entry["name"] == function
    )
    signature = contract.find("function", function)
    return Function(signature.hash[:4], signature.inputs, tuple(get_abi_output_types(entry)))


def block_word(block: str | int) -> str:
    """A block as JSON-RPC names it."""
    return block if isinstance(block, str) else hex(block)


def for_web3(log: Log) -> LogReceipt:
    """A log as web3 decodes it."""
    return {
        "address": to_checksum_address(log.address),
        "topics": [HexBytes(topic) for topic in log.topics],
        "data": HexBytes(log.data),
        "blockNumber": log.block,  # type: ignore[typeddict-item]
        "blockHash": HexBytes(log.block_hash),
        "transactionHash": HexBytes(log.transaction),
        "transactionIndex": log.transaction_index,
        "logIndex": log.index,
        "removed": False,
    }


def read_bounded(response: requests.Response, deadline_s: float) -> None:
    """Read a response before requests does, which knows no end: neither of its size nor of the time
    it takes.
    """
    until = time.monotonic() + deadline_s
    body = bytearray()
    try:
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > MAX_RESPONSE_BYTES or time.monotonic() > until:
                response.close()
                raise OversizedAnswer(
                    f"{shown(response.url)} answers with more than {MAX_RESPONSE_BYTES} bytes or"
                    f" for longer than {deadline_s:g} s"
                )
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    response._content = bytes(body)
