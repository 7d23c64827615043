"""Who is paid by whom: a peer id holds a key, a key has an address. Knows no channel."""

from __future__ import annotations

from p2p.errors import InvalidInput
from p2p.identity import public_key_of
from proofs.errors import ProofError
from proofs.signing import address_of

from ..errors import BadRequest


def address_of_peer(peer_id: str) -> bytes:
    """The address of the key that a peer id holds."""
    try:
        return address_of(public_key_of(peer_id))
    except (InvalidInput, ProofError) as error:
        raise BadRequest(f"{peer_id!r} is not a peer id: {error}") from error
