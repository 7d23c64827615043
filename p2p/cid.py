"""Content identifiers: CIDv1, raw codec, sha2-256, lower-case base32 ("bafkrei…").

A pure codec; knows no store and no network.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from .errors import InvalidCid

DIGEST_BYTES = 32
_HEADER = bytes((0x01, 0x55, 0x12, DIGEST_BYTES))  # version 1, raw, sha2-256, digest length
_TEXT_CHARS = 59  # "b" and 58 base32 characters for 36 bytes


@dataclass(frozen=True, order=True)
class Cid:
    """The name of some bytes. `digest` is their sha-256."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise InvalidCid(
                f"a CID holds a sha-256 digest of {DIGEST_BYTES} bytes, not {len(self.digest)}"
            )

    @classmethod
    def of(cls, data: bytes | memoryview) -> Cid:
        """Return the CID of these bytes."""
        return cls(sha256(data).digest())

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Read the text form.

        Exactly one text names each CID: other bases, cases and paddings are refused.
        """
        if len(text) != _TEXT_CHARS or not text.startswith("b") or text != text.lower():
            raise InvalidCid(
                f"{text[:80]!r} is not a CID: expected {_TEXT_CHARS} characters that begin with"
                " 'bafkrei'"
            )
        try:
            raw = base64.b32decode(text[1:].upper() + "=" * 6)
        except (binascii.Error, ValueError) as error:
            raise InvalidCid(f"{text!r} is not a CID: it is not base32") from error
        if not raw.startswith(_HEADER) or len(raw) != len(_HEADER) + DIGEST_BYTES:
            raise InvalidCid(f"{text!r} is not a CIDv1 of raw bytes under sha2-256")
        cid = cls(raw[len(_HEADER) :])
        # Base32 has spare bits at its end, so several texts decode to one digest; only one may name
        # it.
        if str(cid) != text:
            raise InvalidCid(f"{text!r} is not the canonical form; that is {cid}")
        return cid

    def matches(self, data: bytes | memoryview) -> bool:
        """Return whether these bytes are the ones this CID names."""
        return sha256(data).digest() == self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(_HEADER + self.digest).decode().lower().rstrip("=")

    def __repr__(self) -> str:
        return f"Cid({self})"
