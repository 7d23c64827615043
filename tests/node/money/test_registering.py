"""A node registers weights for their creator, and asks whose they are, on a chain."""

from __future__ import annotations

import pytest

from node.catalogue.owning import Ownership
from node.errors import AdapterError, BadRequest, NodeError
from node.money.registering import ChainRegistry
from proofs.chain.deploy import deploy_registry
from proofs.signing import Signer
from proofs.weights import WeightsDigest
from tests.proofs.chain.world import memory_world, secret

WEIGHTS = WeightsDigest(b"\1" * 32, b"\2" * 32)
DELAY_S = 1


def open_registry() -> ChainRegistry:
    world, _ = memory_world()
    at = deploy_registry(world.client("deployer").wallet, DELAY_S, 1_000)
    return ChainRegistry(world.client("operator").open_registry(at))


async def test_weights_are_registered_once_and_to_one() -> None:
    registry = open_registry()
    creator, other = Signer(secret("creator")), Signer(secret("other"))
    assert await registry.find(WEIGHTS) is None
    found = await registry.register(creator, WEIGHTS, b"\3" * 32, royalty_bps=250, parents=())
    assert (found.creator, found.royalty_bps, found.manifest) == (creator.address, 250, b"\3" * 32)
    again = await registry.register(creator, WEIGHTS, b"\4" * 32, royalty_bps=0, parents=())
    assert again == found == await registry.find(WEIGHTS)
    with pytest.raises(AdapterError, match="Taken"):
        await registry.register(other, WEIGHTS, b"\3" * 32, royalty_bps=0, parents=())


async def test_what_was_made_of_others_names_them_and_owes_what_they_ask() -> None:
    registry = open_registry()
    ownership = Ownership(lambda line: None, registry)
    creator, other = Signer(secret("creator")), Signer(secret("other"))
    parent = await registry.register(creator, WEIGHTS, b"\3" * 32, royalty_bps=1_000, parents=())
    derived = WeightsDigest(b"\5" * 32, b"\6" * 32)
    made = await registry.register(
        other, derived, b"\7" * 32, royalty_bps=0, parents=(WEIGHTS.half,)
    )
    assert await ownership.find_parents(made.parents) == [parent]
    with pytest.raises(BadRequest, match="0x0909"):
        await ownership.find_parents((b"\x09" * 32,))


async def test_a_registry_that_is_none_is_named() -> None:
    world, _ = memory_world()
    registry = ChainRegistry(world.client("operator").open_registry(b"\x77" * 20))
    with pytest.raises(NodeError, match=r"registry in lorikeet\.toml"):
        await registry.find(WEIGHTS)
