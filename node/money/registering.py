"""Asks the registry on the chain whose weights are, and registers those that are published here.

    register:  commit to a claim → wait until it may be shown → show it, signed by the creator

The operator's key pays the gas; the claim is the creator's. Knows no adapter's files.
"""

from __future__ import annotations

import secrets

import trio

from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.registry import Registry
from proofs.registration import Claim, Registration
from proofs.signing import Signer
from proofs.weights import WeightsDigest

from ..errors import AdapterError, NodeError
from ..threads import in_thread

CHAIN_DEADLINE_S = 60.0
POLL_S = 1.0
MOST_LATE_S = 120.0  # how far the chain's clock may be behind ours


class ChainRegistry:
    """One registry contract, for this daemon's key."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def find(self, weights: WeightsDigest) -> Registration | None:
        """Return the earliest registration under one of the digests. Raises NodeError."""
        try:
            return await in_thread(self._registry.find, weights, deadline_s=CHAIN_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise _unreachable(error) from error

    async def register(
        self,
        creator: Signer,
        weights: WeightsDigest,
        manifest: bytes,
        *,
        royalty_bps: int,
        parents: tuple[bytes, ...],
    ) -> Registration:
        """Register weights to a creator, as the manifest of that digest has them; what is his
        already stays as it is.

        Takes as long as a claim must be committed to. Raises AdapterError where the registry
        refuses it, NodeError.
        """
        found = await self.find(weights)
        if found is not None and found.allows(creator.address):
            return found
        claim = Claim(
            creator.address,
            weights,
            manifest,
            royalty_bps=royalty_bps,
            parents=parents,
            salt=secrets.token_bytes(32),
        )
        try:
            delay_s = await in_thread(self._commit, claim, deadline_s=CHAIN_DEADLINE_S)
            with trio.fail_after(delay_s + MOST_LATE_S):
                await self._show(creator, claim, delay_s)
            found = await in_thread(self._registry.find, weights, deadline_s=CHAIN_DEADLINE_S)
        except ContractReverted as error:
            raise AdapterError(f"the registry refuses these weights: {error}") from error
        except (ChainError, trio.TooSlowError) as error:
            raise _unreachable(error) from error
        if found is None:
            raise AdapterError("the registry says nothing of what it took; register again")
        return found

    def _commit(self, claim: Claim) -> int:
        self._registry.commit(claim)
        return self._registry.delay_s()

    async def _show(self, creator: Signer, claim: Claim, delay_s: int) -> None:
        """Show a claim as soon as the chain's clock allows it."""
        await trio.sleep(delay_s)
        while True:
            if await in_thread(self._try, creator, claim, deadline_s=CHAIN_DEADLINE_S):
                return
            await trio.sleep(POLL_S)

    def _try(self, creator: Signer, claim: Claim) -> bool:
        chain_id = self._registry.chain_id()
        try:
            self._registry.register(claim, claim.sign(creator, chain_id, self._registry.address))
        except ContractReverted as error:
            if error.error == "TooYoung":
                return False
            raise
        return True


def _unreachable(error: Exception) -> NodeError:
    why = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
    return NodeError(
        f"the registry cannot be asked: {why}; check chain_rpc and registry in lorikeet.toml"
    )
