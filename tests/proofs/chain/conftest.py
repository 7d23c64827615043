from __future__ import annotations

from collections.abc import Iterator

import pytest

from proofs.chain.devchain import open_chain
from proofs.chain.rpc import Rpc
from tests.proofs.chain.engines import ENGINES, open_world
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


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[World]:
    """A fresh chain for a module, of each kind."""
    with open_world(request.param) as world:
        yield world


@pytest.fixture
def anywhere(engine: World) -> Iterator[World]:
    """The same chain for each test, and what it does undone."""
    height = engine.rpc.call("evm_snapshot")
    yield engine
    engine.rpc.call("evm_revert", height)
