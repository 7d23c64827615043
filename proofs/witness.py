"""Makes what a witness signs: that it holds a header's batch and recomputed the header from it.

Knows no batch and no chain; the settlement contract says who the witnesses are.
"""

from __future__ import annotations

from collections.abc import Iterable

from .digest import Network, keccak, struct_hash, typed_digest
from .signing import Signer, recover

_HEADER_TYPE = keccak(b"Header(bytes32 header)")


def witness_digest(header_hash: bytes, network: Network) -> bytes:
    """Return the 32 bytes that a witness signs (EIP-712)."""
    return typed_digest(network.receipts_domain, struct_hash(_HEADER_TYPE, header_hash))


def sign_header(signer: Signer, header_hash: bytes, network: Network) -> bytes:
    """Sign as a witness."""
    return signer.sign_digest(witness_digest(header_hash, network))


def in_order(
    signatures: Iterable[bytes], header_hash: bytes, network: Network
) -> tuple[bytes, ...]:
    """Sort signatures by the addresses that made them, as the contract wants them.

    Raises BadSignature for one that nobody made.
    """
    digest = witness_digest(header_hash, network)
    return tuple(sorted(signatures, key=lambda signature: recover(digest, signature)))
