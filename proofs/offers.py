"""What a seller over HTTP signs for whoever knows x402 and not us: an offer, and that it was paid
and served (x402's offer-and-receipt extension, version 1, EIP-712).

Says less than our receipt, from which nothing here is taken back: no token, no share, no channel.
"""

from __future__ import annotations

import msgspec

from .digest import keccak, struct_hash, typed_digest

_DOMAIN = keccak(b"EIP712Domain(string name,string version,uint256 chainId)")
_OFFER = keccak(
    b"Offer(uint256 version,string resourceUrl,string scheme,string network,string asset,"
    b"string payTo,string amount,uint256 validUntil)"
)
_SERVED = keccak(
    b"Receipt(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,"
    b"string transaction)"
)
DOMAIN_CHAIN_ID = 1  # whatever the chain: the extension says so


class Offer(msgspec.Struct, frozen=True, rename="camel"):
    """What one request may cost; `valid_until` 0 says nothing of how long."""

    resource_url: str
    scheme: str
    network: str
    asset: str
    pay_to: str
    amount: str
    version: int = 1
    valid_until: int = 0

    @property
    def digest(self) -> bytes:
        """Return the 32 bytes that the seller signs."""
        texts = (self.resource_url, self.scheme, self.network, self.asset, self.pay_to, self.amount)
        return _digest("x402 offer", _OFFER, self.version, *texts, self.valid_until)


class Served(msgspec.Struct, frozen=True, rename="camel"):
    """That a payer paid and was served, at `issued_at` (Unix seconds)."""

    network: str
    resource_url: str
    payer: str
    issued_at: int
    version: int = 1
    transaction: str = ""

    @property
    def digest(self) -> bytes:
        """Return the 32 bytes that the seller signs."""
        values = (self.network, self.resource_url, self.payer, self.issued_at, self.transaction)
        return _digest("x402 receipt", _SERVED, self.version, *values)


def _digest(name: str, kind: bytes, *values: int | str) -> bytes:
    domain = struct_hash(_DOMAIN, keccak(name.encode()), keccak(b"1"), DOMAIN_CHAIN_ID)
    fields = (keccak(value.encode()) if isinstance(value, str) else value for value in values)
    return typed_digest(domain, struct_hash(kind, *fields))
