"""Writes and reads invite tokens: everything that a new node needs to join a network, in one word.

A token holds settings of lorikeet.toml and a checksum. It proves nothing: whoever takes one joins
the network of whoever gave it. Reads no file and asks nobody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from .errors import ConfigError

PREFIX = "lorikeet1-"  # the number is the format's version
MAX_TOKEN_CHARS = 4096
MAX_BOOTSTRAP = 8
CHECKSUM_BYTES = 6
SHARED = (
    "network",
    "network_key",
    "bootstrap",
    "base",
    "base_card",
    "publishers",
    "aggregator",
    "witnesses",
    "chain_id",
    "chain_rpc",
    "first_block",
    "settlement",
    "channels",
    "token",
    "registry",
    "governor",
    "stake",
)
"""The settings that a token may carry: what all nodes of a network share, nothing of one's own."""


def write_invite(shared: Mapping[str, object]) -> str:
    """Write these settings as a token; empty ones are left out. Raises ConfigError."""
    unknown = set(shared) - set(SHARED)
    assert not unknown, f"an invite carries no {unknown}"
    held = {name: value for name, value in shared.items() if value not in ("", 0, (), [])}
    body = json.dumps(held, sort_keys=True, separators=(",", ":")).encode()
    token = PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")
    if len(token) > MAX_TOKEN_CHARS:
        raise ConfigError(
            f"the invite would have {len(token)} characters; the limit is {MAX_TOKEN_CHARS}: name"
            " fewer publishers, witnesses or bootstrap peers"
        )
    return token


def read_invite(token: str) -> dict[str, str]:
    """Read a token; return each setting as text, as an environment variable would hold it.

    Raises ConfigError that says what is wrong with it.
    """
    token = token.strip()
    if not token.startswith(PREFIX):
        raise ConfigError(f"an invite begins with {PREFIX}; this one with {token[:12]!r}")
    if len(token) > MAX_TOKEN_CHARS:
        raise ConfigError(f"an invite has at most {MAX_TOKEN_CHARS} characters")
    coded = token.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("the invite is damaged; copy all of it, in one line") from None
    body = raw[:-CHECKSUM_BYTES]
    if raw[len(body) :] != _checksum(body):
        raise ConfigError("the invite is damaged: its checksum is wrong; copy all of it")
    return _read_body(body)


def _read_body(body: bytes) -> dict[str, str]:
    try:
        held = json.loads(body)
    except (ValueError, RecursionError):
        raise ConfigError("the invite holds no settings") from None
    if not isinstance(held, dict) or not set(held) <= set(SHARED):
        raise ConfigError("the invite holds what this version does not know; update lorikeet")
    if len(held.get("bootstrap", ())) > MAX_BOOTSTRAP:
        raise ConfigError(f"an invite names at most {MAX_BOOTSTRAP} bootstrap peers")
    return {name: _to_text(value) for name, value in held.items()}


def _to_text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return json.dumps(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise ConfigError("the invite holds a value of a kind that no setting takes")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:CHECKSUM_BYTES]
