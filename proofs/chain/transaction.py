"""Signed transactions of the fee-market kind (EIP-1559, type 2). Written out by hand: a dozen fields in RLP, hashed and signed.

The general library takes a second to import and brings pairing-based cryptography along; the tests use it as oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..digest import keccak
from ..signing import Signer

FEE_MARKET = b"\x02"

Rlp = bytes | int | Sequence["Rlp"]


@dataclass(frozen=True)
class Fees:
    """What a transaction offers for each unit of gas: at most, and of that to whoever makes the block."""

    max_fee_wei: int
    tip_wei: int

    def bumped(self, percent: int) -> Fees:
        """Higher by so much, rounded up: what a replacement must offer."""
        return Fees(-(-self.max_fee_wei * (100 + percent) // 100), -(-self.tip_wei * (100 + percent) // 100))


@dataclass(frozen=True)
class SignedTransaction:
    """A transaction that only has to be sent. Its hash is known before anybody has seen it."""

    raw: bytes
    hash: bytes
    nonce: int
    fees: Fees


def sign_transaction(signer: Signer, chain_id: int, nonce: int, fees: Fees, gas: int, to: bytes, data: bytes) -> SignedTransaction:
    """A signed call that carries no ether. An empty `to` creates a contract."""
    fields: list[Rlp] = [chain_id, nonce, fees.tip_wei, fees.max_fee_wei, gas, to, 0, data, []]
    signature = signer.sign_digest(keccak(FEE_MARKET + encode_rlp(fields)))
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
    raw = FEE_MARKET + encode_rlp([*fields, signature[64] - 27, r, s])
    return SignedTransaction(raw, keccak(raw), nonce, fees)


def encode_rlp(item: Rlp) -> bytes:
    """Recursive length prefix (Ethereum yellow paper, appendix B); integers big-endian without leading zeros."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else length_prefix(len(item), 0x80) + item
    body = b"".join(map(encode_rlp, item))
    return length_prefix(len(body), 0xC0) + body


def length_prefix(size: int, offset: int) -> bytes:
    """Up to 55 in one byte, above that the length of the length first."""
    if size <= 55:
        return bytes([offset + size])
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(length)]) + length
