"""Reads the head with which an HTTP connection begins, as far as it says who should answer. Pure.

Whoever answers parses it again, strictly.
"""

from __future__ import annotations

MAX_HEAD_BYTES = 16 << 10
END = b"\r\n\r\n"


def fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a request's head, names in lower case; what has no colon is left
    out.
    """
    lines = head.partition(END)[0].split(b"\r\n")[1:]
    pairs = [line.partition(b":") for line in lines]
    return [(name.strip().lower(), value.strip()) for name, colon, value in pairs if colon]


def asks_for_websocket(head: bytes) -> bool:
    """Return whether a request asks to become a WebSocket."""
    fields = fields_of(head)
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in fields)
