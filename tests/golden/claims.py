"""A claim to weights, as a creator signs it for one registry."""

from __future__ import annotations

import hashlib
from typing import Any

from proofs.registration import Claim
from proofs.weights import WeightsDigest

from .weights import weights
from .world import CLIENT, NETWORK, secret

REGISTRY = bytes.fromhex("5f" * 20)


def claims() -> list[dict[str, Any]]:
    """One that is made of nothing, one of two others."""
    words = [hashlib.sha256(b"claim %d" % number).digest() for number in range(5)]
    return [_claim(0, (), 0, words), _claim(1, tuple(words[2:4]), 250, words)]


def _claim(entry: int, parents: tuple[bytes, ...], bps: int, words: list[bytes]) -> dict[str, Any]:
    found = weights()[entry]
    digests = WeightsDigest(*(bytes.fromhex(found[kind]) for kind in ("brain", "half")))
    claim = Claim(CLIENT.address, digests, words[0], bps, parents, words[1])
    return {
        "chain_id": NETWORK.chain_id,
        "registry": REGISTRY.hex(),
        "creator_secret": secret("client").hex(),
        "creator": claim.creator.hex(),
        "brain": digests.brain.hex(),
        "half": digests.half.hex(),
        "manifest": claim.manifest.hex(),
        "royalty_bps": claim.royalty_bps,
        "parents": [parent.hex() for parent in parents],
        "salt": claim.salt.hex(),
        "digest": claim.digest(NETWORK.chain_id, REGISTRY).hex(),
        "signature": claim.sign(CLIENT, NETWORK.chain_id, REGISTRY).hex(),
    }
