from __future__ import annotations

from collections.abc import Iterator

import pytest

from proofs.chain.devchain import open_chain
from proofs.chain.rpc import Rpc
from tests.proofs.chain.engines import ENGINES
from tests.proofs.chain.world import NAMES, World, address, memory_world


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest) -> Iterator[World]:
    """A real chain process behind real HTTP."""
    with open_chain(
        address("aggregator"), [address(name) for name in NAMES], request.param
    ) as chain:
        rpc = Rpc(chain.rpc)
        yield World(rpc, chain.deployment)
        rpc.close()


@pytest.fixture
def world() -> World:
    """A fresh chain in this process."""
    return memory_world()[0]
