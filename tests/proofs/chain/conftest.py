from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from proofs.chain.devchain import open_chain
from proofs.chain.rpc import Rpc
from tests.node.forked import forked_python
from tests.proofs.chain.engines import ENGINES, open_world
from tests.proofs.chain.world import NAMES, World, address, memory_world

SHARED = {"served", "engine"}
Open = Callable[[str | None], AbstractContextManager[World]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one worker run all that shares chains: they are set up once."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if Path(__file__).parent in item.path.parents and SHARED & set(fixtures):
            item.add_marker(pytest.mark.xdist_group("chains"))


@contextmanager
def open_served(anvil: str | None) -> Iterator[World]:
    """A real chain process behind real HTTP."""
    command = (forked_python(), "-m", "proofs.chain.devchain")
    with open_chain(
        address("aggregator"), [address(name) for name in NAMES], anvil, command=command
    ) as chain:
        rpc = Rpc(chain.rpc)
        yield World(rpc, chain.deployment)
        rpc.close()


@pytest.fixture(scope="session")
def open_once() -> Iterator[Callable[[Open, str | None], World]]:
    """Opens each kind of chain when it is first wanted; it stays open for all tests."""
    opened: dict[tuple[Open, str | None], World] = {}
    with ExitStack() as stack:

        def get(open_it: Open, anvil: str | None) -> World:
            if (open_it, anvil) not in opened:
                opened[open_it, anvil] = stack.enter_context(open_it(anvil))
            return opened[open_it, anvil]

        yield get


@contextmanager
def undone(world: World) -> Iterator[World]:
    """A chain on which the block leaves nothing."""
    height = world.rpc.call("evm_snapshot")
    yield world
    world.rpc.call("evm_revert", height)


@pytest.fixture(scope="module", params=ENGINES)
def served(
    request: pytest.FixtureRequest, open_once: Callable[[Open, str | None], World]
) -> Iterator[World]:
    """A real chain process behind real HTTP, on which a module leaves nothing."""
    with undone(open_once(open_served, request.param)) as world:
        yield world
    world.rpc.call("evm_mine")  # its clock has gone on


@pytest.fixture
def world() -> World:
    """A fresh chain in this process."""
    return memory_world()[0]


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    request: pytest.FixtureRequest, open_once: Callable[[Open, str | None], World]
) -> Iterator[World]:
    """A chain of each kind, on which a module leaves nothing."""
    with undone(open_once(open_world, request.param)) as world:
        yield world
    world.rpc.call("evm_mine")  # its clock has gone on


@pytest.fixture
def anywhere(engine: World) -> Iterator[World]:
    """The same chain for each test, and what it does undone."""
    with undone(engine) as world:
        yield world
