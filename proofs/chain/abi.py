"""Encodes and decodes values as Solidity's ABI does. Knows no contract.

eth_abi and what it brings are 13 MB, which a daemon without a chain need not carry: it is imported
when it is first needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def encode(kinds: Sequence[str], values: Sequence[Any]) -> bytes:
    """Encode values of these Solidity types. Raises eth_abi's EncodingError where one does not
    fit.
    """
    from eth_abi import encode as encode_values  # type: ignore[attr-defined]

    encoded: bytes = encode_values(kinds, values)
    return encoded


def decode(kinds: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Decode values of these Solidity types. Raises ValueError for bytes that are none."""
    from eth_abi import decode as decode_values  # type: ignore[attr-defined]
    from eth_abi.exceptions import DecodingError

    try:
        return tuple(decode_values(kinds, data))
    except DecodingError as error:
        raise ValueError(f"not the values of {', '.join(kinds)}: {error}") from error


def input_types(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the canonical types of what a function, event or error of an ABI takes."""
    from eth_utils.abi import get_abi_input_types

    return tuple(get_abi_input_types(entry))  # type: ignore[arg-type]


def split_kinds(kinds: str) -> tuple[str, ...]:
    """Split a tuple's type into those of its parts: `(address,(uint8,bool)[])` has two."""
    from eth_abi.grammar import parse

    parsed = parse(kinds)
    return tuple(part.to_type_str() for part in parsed.components)
