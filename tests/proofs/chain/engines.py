"""The nodes that the chain's tests run on: py-evm always, anvil where it is on PATH or npm brought
it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proofs.chain.anvil import run_anvil
from proofs.chain.devchain import CHAIN_ID, FUND_WEI
from proofs.chain.rpc import Rpc
from tests.proofs.chain.world import NAMES, START, World, address, deploy_world, memory_world

NODE_MODULES = Path(__file__).resolve().parents[3] / "contracts" / "node_modules"


def find_anvil() -> str | None:
    """Find anvil's binary; the script that npm puts into .bin needs node."""
    brought = NODE_MODULES.glob("@foundry-rs/anvil-*/bin/anvil")
    return shutil.which("anvil") or next(map(str, brought), None)


ANVIL = find_anvil()
ENGINES = [
    pytest.param(None, id="py-evm"),
    pytest.param(
        ANVIL, id="anvil", marks=pytest.mark.skipif(ANVIL is None, reason="no anvil here")
    ),
]


@contextmanager
def open_world(anvil: str | None) -> Iterator[World]:
    """A fresh chain: in this process, or in an anvil's."""
    if anvil is None:
        yield memory_world()[0]
        return
    balances = dict.fromkeys([address("deployer"), *map(address, NAMES)], FUND_WEI)
    with run_anvil(anvil, 0, CHAIN_ID, balances) as url:
        rpc = Rpc(url)
        rpc.call("evm_setNextBlockTimestamp", START)
        yield deploy_world(rpc)
        rpc.close()
