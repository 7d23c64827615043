"""Many channels, many blocks, and a node that is slow or allows little at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.chain.client import ChainClient
from proofs.chain.contract import DeployedContract
from proofs.chain.errors import RpcRefused
from proofs.chain.finality import Finality
from proofs.chain.headers import HeaderWalk
from proofs.chain.origin import find_first_block
from proofs.chain.pages import FIRST_PAGE_BLOCKS, LogPages
from proofs.chain.rpc import MAX_CALLS_PER_PAGE, Rpc
from proofs.chain.structs import PostedHeader
from tests.proofs.chain.simulated import SlowProvider, SparseChain, block_hash, slow_chain
from tests.proofs.chain.world import World, memory_world, secret


def test_many_channels_are_read_in_few_calls():
    world, chain = memory_world()
    configs = [world.config(number=number) for number in range(3)]
    for number, config in enumerate(configs):
        world.client("payer").channels.deposit(config, 100 + number)
    provider = slow_chain(chain, 0.0)
    client = ChainClient(Rpc("slow", provider=provider), world.deployment, secret("operator"))
    ids = [client.channels.id_of(config) for config in configs]
    many = [*ids, *(bytes([1]) * 28 + number.to_bytes(4, "big") for number in range(400))]
    states = client.channels.read_many(many)
    assert [state.balance for state in states] == [100, 101, 102] + 400 * [0]
    pages = -(-3 * len(many) // MAX_CALLS_PER_PAGE)
    assert provider.calls["eth_call"] == pages
    assert provider.calls.total() <= pages + 1
    assert client.channels.read_many([]) == []


def test_what_is_read_in_one_call_is_the_same_on_every_node(anywhere: World):
    configs = [anywhere.config(number=number) for number in range(3)]
    for number, config in enumerate(configs):
        anywhere.client("payer").channels.deposit(config, 100 + number)
    channels = anywhere.client("operator").channels
    ids = [channels.id_of(config) for config in configs]
    states = channels.read_many([*ids, bytes([1]) * 32])
    assert [state.balance for state in states] == [100, 101, 102, 0]
    assert states[:3] == [channels.read(one) for one in ids]


@given(
    st.integers(0, 10**6),
    st.integers(-1, 3000),
    st.integers(1, 700),
    st.sampled_from(["limited to {} blocks", "query exceeds max block range {}", "no"]),
)
def test_every_block_is_read_once_whatever_the_limit(
    first: int, num_blocks: int, limit: int, words: str
):
    last = first + num_blocks
    seen: list[int] = []

    def ask(start: int, end: int) -> list[int]:
        if end - start + 1 > limit:
            raise RpcRefused(-32005, words.format(limit))
        seen.extend(range(start, end + 1))
        return [start]

    list(LogPages().read(ask, first, last))
    assert seen == list(range(first, last + 1))


def test_a_stated_limit_is_taken_at_once_and_remembered():
    pages = LogPages()
    asked: list[int] = []

    def ask(start: int, end: int) -> list[int]:
        asked.append(end - start + 1)
        if end - start + 1 > 500:
            raise RpcRefused(-32000, "eth_getLogs is limited to a 500 blocks range")
        return []

    list(pages.read(ask, 0, 9_999))
    assert asked == [FIRST_PAGE_BLOCKS] + 20 * [500]
    asked.clear()
    list(pages.read(ask, 10_000, 10_999))
    assert asked == [500, 500]


def test_a_node_that_refuses_for_another_reason_is_not_held_against_later_pages():
    pages = LogPages()

    def refuse(_start: int, _end: int) -> list[int]:
        raise RpcRefused(-32000, "internal error")

    with pytest.raises(RpcRefused, match="internal error"):
        list(pages.read(refuse, 0, 9_999))
    asked: list[int] = []
    list(pages.read(lambda start, end: asked.append(end - start + 1) or [], 0, 9_999))
    assert asked[0] == FIRST_PAGE_BLOCKS


def sparse(**changes) -> tuple[SparseChain, SlowProvider, Rpc]:
    shape = {"head": 38_000_000, "first": 37_980_001, "stride": 19, "epochs": 1000, "limit": 500}
    chain = SparseChain(**{**shape, **changes})
    provider = SlowProvider(chain.answer, 0.0)
    return chain, provider, Rpc("sparse", provider=provider)


def walk_of(chain: SparseChain, rpc: Rpc, first: int) -> HeaderWalk:
    contract = DeployedContract("Settlement", chain.settlement, rpc, None, 1)  # type: ignore[arg-type]
    return HeaderWalk(contract, Finality(rpc, 0, first), first, block_hash(first))


def test_a_thousand_headers_at_block_38_million_take_a_hundred_calls():
    chain, provider, rpc = sparse()
    first = find_first_block(rpc, chain.settlement, None)
    assert first == chain.first
    walk = walk_of(chain, rpc, first)
    epochs = []
    while (posted := walk.next()) is not None:
        assert isinstance(posted, PostedHeader)
        epochs.append(posted.header.epoch)
    assert epochs == list(range(1, 1001))
    assert provider.calls.total() <= 100
    provider.calls.clear()
    chain.head += 10
    assert walk.next() is None
    assert provider.calls["eth_getLogs"] == 1, "only what is new is read"
    assert provider.calls.total() <= 4


def test_the_contract_says_from_which_block_on_it_stands_and_the_operator_may_know_better():
    chain, _, rpc = sparse()
    assert find_first_block(rpc, chain.settlement, None) == chain.first
    assert find_first_block(rpc, chain.settlement, 17) == 17
