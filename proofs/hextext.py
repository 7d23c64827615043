"""Addresses and digests as people and chains write them: 0x and two digits a byte.

Knows no length: who wants an address checks that it got one.
"""

from __future__ import annotations


def to_hex(data: bytes) -> str:
    """Write bytes as 0x…, in lower case."""
    return "0x" + data.hex()


def from_hex(text: str) -> bytes:
    """Read bytes written with or without 0x; ValueError names the text."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not 0x and two hexadecimal digits a byte") from None
