"""Makes what a creator signs about weights, and says what a registry answers. Knows no chain.

Normative text: docs/protocols/registry.md. Twin of contracts/src/interfaces/IRegistry.sol.
"""

from __future__ import annotations

from dataclasses import dataclass

from .digest import domain_separator, keccak, struct_hash, typed_digest
from .signing import Signer
from .weights import WeightsDigest

MAX_ROYALTY_BPS = 10_000
MAX_REGISTERED_PARENTS = 8
_CLAIM_TYPE = keccak(
    b"Claim(address creator,bytes32 brain,bytes32 half,bytes32 manifest,uint16 royaltyBps,"
    b"bytes32[] parents,bytes32 salt)"
)


@dataclass(frozen=True)
class Claim:
    """A creator's word that weights are his; `salt` keeps its digest from telling anything.

    `creator`: an address; `manifest`, `parents`, `salt`: 32 bytes each, the parents' are digests of
    weights that are registered.
    """

    creator: bytes
    weights: WeightsDigest
    manifest: bytes
    royalty_bps: int
    parents: tuple[bytes, ...]
    salt: bytes

    def digest(self, chain_id: int, registry: bytes) -> bytes:
        """Return what is committed to, and signed, for one registry."""
        values = (self.weights.brain, self.weights.half, self.manifest, self.royalty_bps)
        parents = keccak(b"".join(self.parents))
        hashed = struct_hash(_CLAIM_TYPE, self.creator, *values, parents, self.salt)
        return typed_digest(domain_separator("Lorikeet Registry", "1", chain_id, registry), hashed)

    def sign(self, signer: Signer, chain_id: int, registry: bytes) -> bytes:
        """Sign it as its creator."""
        assert signer.address == self.creator, "a claim is signed by its creator"
        return signer.sign_digest(self.digest(chain_id, registry))


@dataclass(frozen=True)
class Registration:
    """What a registry says of weights.

    `creator` signed for them, `owner` has them now (addresses). `committed_at` and `first_block`
    say since when, `registered_at` when it was shown, in Unix seconds of the chain. `manifest` is
    the digest of an adapter's, `parents` are of weights.
    """

    creator: bytes
    owner: bytes
    committed_at: int
    registered_at: int
    first_block: int
    royalty_bps: int = 0
    manifest: bytes = b""
    parents: tuple[bytes, ...] = ()

    def allows(self, creator: bytes) -> bool:
        """Return whether a manifest that this address signed may have the weights."""
        return creator in (self.creator, self.owner)
