"""Reads what an Ethereum node answers, and believes in nothing.

Each reader gives a value of one type or raises OddAnswer. Pure; knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import OddAnswer

MAX_QUANTITY_BITS = 256
MAX_SHOWN_CHARS = 60
HASH_BYTES = 32
ADDRESS_BYTES = 20

Json = Any


@dataclass(frozen=True)
class Block:
    """A block's place and time. `base_fee_wei` is None on a chain that has none."""

    number: int
    hash: bytes
    timestamp: int
    base_fee_wei: int | None


@dataclass(frozen=True)
class Log:
    """What a contract said in a transaction, and where that stands."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: bytes
    transaction: bytes
    transaction_index: int
    index: int


@dataclass(frozen=True)
class MinedTransaction:
    """What came of a transaction that is in a block. `contract` is empty unless it made one."""

    hash: bytes
    block: int
    block_hash: bytes
    gas_used: int
    succeeded: bool
    contract: bytes
    logs: tuple[Log, ...]


def read_quantity(value: Json, what: str) -> int:
    """A number that is not negative, from 0x and hexadecimal digits."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise odd(what, "a number", value)
    try:
        number = int(value[2:], 16)
    except ValueError:
        raise odd(what, "a number", value) from None
    if value[2:3] in "+-_" or number >> MAX_QUANTITY_BITS:
        raise odd(what, "a number", value)
    return number


def read_data(value: Json, what: str, num_bytes: int | None = None) -> bytes:
    """Bytes, from 0x and an even number of digits; exactly `num_bytes` of them where that is
    given.
    """
    expected = "bytes" if num_bytes is None else f"{num_bytes} bytes"
    if not isinstance(value, str) or not value.startswith("0x"):
        raise odd(what, expected, value)
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise odd(what, expected, value) from None
    if num_bytes is not None and len(data) != num_bytes:
        raise odd(what, expected, value)
    return data


def read_block(value: Json) -> Block:
    """A block's header."""
    fields = _fields(value, "a block")
    fee = fields.get("baseFeePerGas")
    return Block(
        read_quantity(fields.get("number"), "a block's number"),
        read_data(fields.get("hash"), "a block's hash", HASH_BYTES),
        read_quantity(fields.get("timestamp"), "a block's time"),
        None if fee is None else read_quantity(fee, "a block's base fee"),
    )


def find_block(value: Json) -> Block | None:
    """A block's header; None where the node knows no such block."""
    return None if value is None else read_block(value)


def read_log(value: Json) -> Log:
    """One log."""
    fields = _fields(value, "a log")
    topics = fields.get("topics")
    if not isinstance(topics, list):
        raise odd("a log's topics", "a list", topics)
    return Log(
        read_data(fields.get("address"), "a log's address", ADDRESS_BYTES),
        tuple(read_data(topic, "a log's topic", HASH_BYTES) for topic in topics),
        read_data(fields.get("data"), "a log's data"),
        read_quantity(fields.get("blockNumber"), "a log's block"),
        block_hash=read_data(fields.get("blockHash"), "a log's block hash", HASH_BYTES),
        transaction=read_data(fields.get("transactionHash"), "a log's transaction", HASH_BYTES),
        transaction_index=read_quantity(fields.get("transactionIndex"), "a log's place"),
        index=read_quantity(fields.get("logIndex"), "a log's place"),
    )


def read_logs(value: Json) -> list[Log]:
    """All logs of an answer, in the order in which they were made."""
    if not isinstance(value, list):
        raise odd("the logs", "a list", value)
    return sorted(map(read_log, value), key=lambda log: (log.block, log.index))


def find_mined(value: Json) -> MinedTransaction | None:
    """What came of a transaction; None while it is in no block."""
    if value is None:
        return None
    fields = _fields(value, "a transaction's receipt")
    if fields.get("blockNumber") is None:
        return None
    made = fields.get("contractAddress")
    return MinedTransaction(
        read_data(fields.get("transactionHash"), "a transaction's hash", HASH_BYTES),
        read_quantity(fields.get("blockNumber"), "a transaction's block"),
        read_data(fields.get("blockHash"), "a transaction's block hash", HASH_BYTES),
        read_quantity(fields.get("gasUsed"), "a transaction's gas"),
        succeeded=read_quantity(fields.get("status"), "a transaction's status") == 1,
        contract=b"" if made is None else read_data(made, "a contract's address", ADDRESS_BYTES),
        logs=tuple(read_logs(fields.get("logs"))),
    )


def odd(what: str, expected: str, value: Json) -> OddAnswer:
    """The error for an answer that is something else."""
    return OddAnswer(f"the node says {repr(value)[:MAX_SHOWN_CHARS]} for {what}, not {expected}")


def _fields(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise odd(what, "an object", value)
    return value


def _number(what: str) -> Callable[[Json], object]:
    return lambda value: read_quantity(value, what)


def _data(what: str, num_bytes: int | None = None) -> Callable[[Json], object]:
    return lambda value: read_data(value, what, num_bytes)


READERS: Mapping[str, Callable[[Json], object]] = {
    "eth_chainId": _number("the chain's id"),
    "eth_blockNumber": _number("the newest block's number"),
    "eth_getTransactionCount": _number("an account's nonce"),
    "eth_getBalance": _number("an account's balance"),
    "eth_estimateGas": _number("a call's gas"),
    "eth_maxPriorityFeePerGas": _number("the tip"),
    "eth_getCode": _data("a contract's code"),
    "eth_call": _data("what a call returns"),
    "eth_sendRawTransaction": _data("a transaction's hash", HASH_BYTES),
    "eth_getTransactionReceipt": find_mined,
    "eth_getLogs": read_logs,
}
"""What our questions are answered with, by method."""


def check_answer(method: str, params: Sequence[object], result: Json) -> None:
    """OddAnswer unless this is an answer to this question."""
    if method == "eth_getBlockByNumber":
        read = read_block if params and params[0] == "latest" else find_block
        read(result)
    elif method in READERS:
        READERS[method](result)
