"""Makes secp256k1 signatures and finds the addresses of those who made them.

Knows digests, not what they stand for.

A signature is r (32) || s (32) || v (1) with v 27 or 28 and s in the lower half of the group order,
so that each has one form only: otherwise anybody could turn a signed receipt into a second one that
differs.
"""

from __future__ import annotations

from coincurve import PrivateKey, PublicKey

from .digest import keccak
from .errors import BadSignature

SIGNATURE_BYTES = 65
HALF_ORDER = (
    0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0  # of secp256k1's group
)


class Signer:
    """One secret key, which it never shows."""

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.public_key = self._key.public_key.format()
        self.address = address_of(self.public_key)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes; deterministic (RFC 6979), always with low s."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])


def recover(digest: bytes, signature: bytes) -> bytes:
    """Return the address whose key signed `digest`. Raises BadSignature when there is none."""
    check_form(signature)
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
        )
    except Exception as error:  # coincurve raises plain Exception for what libsecp256k1 refuses
        raise BadSignature("no key can have made this signature") from error
    return _address(key)


def check_form(signature: bytes) -> None:
    """Raise BadSignature unless these bytes are in the one accepted form. Does not say who signed
    what.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    if signature[64] not in (27, 28):
        raise BadSignature(f"v must be 27 or 28, not {signature[64]}")
    if int.from_bytes(signature[32:64], "big") > HALF_ORDER:
        raise BadSignature("s is in the upper half of the group order; use the other form")


def address_of(public_key: bytes) -> bytes:
    """Return the 20-byte address of a public key (33 bytes compressed, or 65). Raises
    BadSignature.
    """
    try:
        return _address(PublicKey(public_key))
    except ValueError as error:
        raise BadSignature("these bytes are no point of secp256k1") from error


def _address(key: PublicKey) -> bytes:
    return keccak(key.format(compressed=False)[1:])[12:]
