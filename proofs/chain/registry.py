"""Registers weights and asks whose they are: the calls of the registry contract.

A call that the contract refuses raises ContractReverted, and nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hextext import from_hex
from ..registration import Claim, Registration
from ..weights import WeightsDigest
from .contract import DeployedContract

if TYPE_CHECKING:
    from .wallet import TransactionReceipt


class Registry:
    """One registry, for one key, which pays the gas and need not be the creator's."""

    def __init__(self, contract: DeployedContract) -> None:
        self._contract = contract

    @property
    def address(self) -> bytes:
        """Where it is."""
        return self._contract.address

    def delay_s(self) -> int:
        """Seconds from a commitment until its claim may be shown."""
        return int(self._contract.read_one("DELAY"))

    def chain_id(self) -> int:
        """The chain that claims for it are signed for."""
        return self._contract.rpc.chain_id()

    def disputes(self) -> bytes | None:
        """The contract at which registrations are disputed; None: nowhere."""
        address = from_hex(self._contract.read_one("DISPUTES"))
        return address if any(address) else None

    def number_of(self, digest: bytes) -> int:
        """Under which number a digest of weights is registered; 0: it is not."""
        return int(self._contract.read_one("idOf", digest))

    def commit(self, claim: Claim) -> TransactionReceipt:
        """Say that this will be claimed, without saying what."""
        return self._contract.send("commit", claim.digest(self.chain_id(), self.address))

    def ready_at(self, claim: Claim) -> int | None:
        """From which second of the chain on a claim may be shown; None: nobody committed to it."""
        digest = claim.digest(self.chain_id(), self.address)
        made_at, _ = self._contract.read("commitments", digest)
        return int(made_at) + self.delay_s() if made_at else None

    def register(self, claim: Claim, signature: bytes) -> TransactionReceipt:
        """Show a claim that was committed to, with its creator's signature."""
        return self._contract.send("register", claim_values(claim), signature)

    def hand_on(self, digest: bytes, to: bytes) -> TransactionReceipt:
        """Have somebody else own what is registered under a digest; this key owns it."""
        return self._contract.send("handOn", digest, to)

    def find(self, weights: WeightsDigest) -> Registration | None:
        """The earliest registration under one of the digests."""
        found, parents = self._contract.read("find", weights.brain, weights.half)
        creator, committed_at, royalty_bps, owner, registered_at, _, manifest, first_block = found
        if not committed_at:
            return None
        return Registration(
            bytes.fromhex(creator[2:]),
            bytes.fromhex(owner[2:]),
            committed_at=committed_at,
            registered_at=registered_at,
            first_block=first_block,
            royalty_bps=royalty_bps,
            manifest=bytes(manifest),
            parents=tuple(map(bytes, parents)),
        )


def claim_values(claim: Claim) -> tuple[object, ...]:
    """A claim as the contract's call takes it."""
    return (
        claim.creator,
        claim.weights.brain,
        claim.weights.half,
        claim.manifest,
        claim.royalty_bps,
        list(claim.parents),
        claim.salt,
    )
