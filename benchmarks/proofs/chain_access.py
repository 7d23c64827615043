"""How long it takes to read what a network has on its chain, over a node that is slow.

One process, one core, and a simulated node that waits before each answer: the figures are the
number of calls and what we compute with them; what the node computes is not counted. The channels
are real ones on a chain in memory, the headers lie in a chain of 38,000,000 blocks whose node
allows 500 blocks of logs a call.

python -m benchmarks.proofs.chain_access        prints a table and writes it to benchmarks/results/
"""

from __future__ import annotations

import time

from benchmarks import write_result
from proofs.chain.client import ChainClient
from proofs.chain.contract import DeployedContract
from proofs.chain.finality import Finality
from proofs.chain.headers import HeaderWalk
from proofs.chain.origin import find_first_block
from proofs.chain.rpc import Rpc
from proofs.chain.structs import PostedHeader
from proofs.digest import keccak
from tests.proofs.chain.simulated import SlowProvider, SparseChain, block_hash, slow_chain
from tests.proofs.chain.world import memory_world, secret

NUM_CHANNELS = 10_000
CHANNEL_PAUSE_S = 0.1
NUM_EPOCHS = 1_000
EPOCH_BLOCKS = 150  # five minutes of two seconds
HEADER_PAUSE_S = 0.05
HEAD = 38_000_000
LIMIT_BLOCKS = 500


def read_channels() -> dict[str, float]:
    """All channels of a network, as an aggregator reads them before it seals."""
    world, chain = memory_world()
    provider = slow_chain(chain, CHANNEL_PAUSE_S)
    client = ChainClient(Rpc("slow", provider=provider), world.deployment, secret("operator"))
    ids = [keccak(b"channel %d" % number) for number in range(NUM_CHANNELS)]
    start = time.perf_counter()
    states = client.channels.read_many(ids)
    took_s = time.perf_counter() - start - provider.answering_s
    assert len(states) == NUM_CHANNELS
    return {
        "10,000 channels, 100 ms a call s": round(took_s, 2),
        "10,000 channels calls": provider.calls.total(),
    }


def join() -> dict[str, float]:
    """A mirror that comes anew: where the contract begins, and every header since."""
    first = HEAD - EPOCH_BLOCKS * (NUM_EPOCHS + 1)
    chain = SparseChain(
        head=HEAD, first=first, stride=EPOCH_BLOCKS, epochs=NUM_EPOCHS, limit=LIMIT_BLOCKS
    )
    provider = SlowProvider(chain.answer, HEADER_PAUSE_S)
    rpc = Rpc("slow", provider=provider)
    start = time.perf_counter()
    begins = find_first_block(rpc, chain.settlement, None)
    contract = DeployedContract("Settlement", chain.settlement, rpc, None, 1)  # type: ignore[arg-type]
    walk = HeaderWalk(contract, Finality(rpc, 0, begins), begins, block_hash(begins))
    num_headers = 0
    while isinstance(walk.next(), PostedHeader):
        num_headers += 1
    took_s = time.perf_counter() - start - provider.answering_s
    assert num_headers == NUM_EPOCHS
    return {
        "1,000 headers at block 38,000,000, 50 ms a call s": round(took_s, 2),
        "1,000 headers calls": provider.calls.total(),
    }


def measure() -> dict[str, float]:
    """Everything, by name; the last word is the unit."""
    return read_channels() | join()


if __name__ == "__main__":
    found = measure()
    for name, value in found.items():
        print(f"{name:60} {value}")
    write_result("proofs-chain-access", found)
