"""The chain takes blocks back: what was read too early is never believed, what was posted is posted
again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs.chain.client import ChainClient
from proofs.chain.errors import WrongChain
from proofs.chain.evm import MemoryChain
from proofs.chain.headers import Reorganised
from proofs.chain.local_rpc import memory_rpc
from proofs.chain.poster import Poster, PostPolicy
from proofs.chain.rpc import Rpc
from proofs.ledger import Ledger, PostJournal
from tests.proofs.chain.simulated import slow_chain
from tests.proofs.chain.world import World, address, memory_world, secret

DEPTHS = [1, 2, 3, 7, 12, 20]


def mine(chain: MemoryChain, num_blocks: int) -> None:
    for _ in range(num_blocks):
        chain.mine()


def unfinished_world() -> tuple[World, MemoryChain]:
    """A chain that calls nothing final."""
    world, chain = memory_world()
    world.earn(1000)
    chain.finalized_depth = None
    return world, chain


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_header_that_was_taken_back_is_posted_again(depth: int, tmp_path: Path):
    world, chain = unfinished_world()
    mine(chain, 2)
    aggregator = world.client("aggregator")
    journal = PostJournal(Ledger(tmp_path / "journal.sqlite"))
    poster = Poster(aggregator, journal)
    start = chain.head.block_number
    headers = []
    for _ in range(depth):
        headers.append(world.next_header())
        poster.post(headers[-1])
    assert poster.first_unposted() == depth + 1

    chain.revert_to(start)
    mine(chain, depth + 1)  # another branch, longer, without us
    assert aggregator.settlement.read().epoch == 0
    assert poster.first_unposted() == 1
    for header in headers[poster.first_unposted() - 1 :]:
        poster.post(header)
    assert [posted.header for posted in aggregator.settlement.headers()] == headers
    assert aggregator.wallet.mined_nonce() == depth, "the same transactions, sent again"


def test_the_same_process_sends_at_once_what_a_reorganisation_dropped(tmp_path: Path):
    world, chain = unfinished_world()
    poster = Poster(
        world.client("aggregator"),
        PostJournal(Ledger(tmp_path / "journal.sqlite")),
        PostPolicy(confirmations=3, bump_after_s=3600),
    )
    chain_head = chain.head.block_number
    header = world.next_header()
    with pytest.raises(Exception, match="not posted"):
        poster.post(header, deadline_s=0.1)
    chain.revert_to(chain_head)
    mine(chain, 2)
    with pytest.raises(Exception, match="not posted"):
        poster.post(header, deadline_s=0.1)
    mine(chain, 2)
    assert poster.post(header, deadline_s=60).epoch == 1


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_deposit_counts_once_it_is_as_deep_as_stated(depth: int):
    world, chain = unfinished_world()
    payer = world.client("payer")
    node = world.client("operator", confirmations=depth + 1)
    config = world.config()
    channel = payer.channels.id_of(config)
    mine(chain, depth)
    before = chain.head.block_number
    payer.channels.deposit(config, 500)
    mine(chain, depth - 1)
    assert node.channels.read(channel).balance == 0, "the reorganisation may still come"
    assert node.channels.read_many([channel], "latest")[0].balance == 500

    chain.revert_to(before)
    mine(chain, depth + 1)
    assert node.channels.read(channel).balance == 0
    payer.channels.deposit(config, 300)
    mine(chain, depth)
    assert node.channels.read(channel).balance == 300


def test_a_withdrawal_counts_at_once_and_money_that_left_is_not_believed_in():
    world, chain = unfinished_world()
    payer = world.client("payer")
    node = world.client("operator", confirmations=5)
    config = world.config()
    channel = payer.channels.id_of(config)
    payer.channels.deposit(config, 500)
    mine(chain, 5)
    payer.channels.initiate_withdraw(config, 400)
    assert node.channels.read(channel).withdraw_requested_at
    chain.increase_time(config.withdraw_delay + 1)
    payer.channels.finalize_withdraw(config)
    assert node.channels.read_many([channel])[0].balance == 500
    assert node.channels.read(channel).balance == 100


def test_a_claim_counts_once_it_is_as_deep_as_stated():
    world, chain = unfinished_world()
    world.client("payer").channels.deposit(world.config(), 500)
    world.client("operator").channels.claim([world.voucher(world.config(), 200)])
    aggregator = world.client("aggregator", confirmations=4)
    channel = aggregator.channels.id_of(world.config())
    mine(chain, 2)
    assert aggregator.channels.read_many([channel])[0].total_claimed == 0
    mine(chain, 1)
    assert aggregator.channels.read_many([channel])[0].total_claimed == 200


def test_what_the_chain_calls_final_counts_where_it_does():
    world, chain = memory_world()
    chain.finalized_depth = 6
    world.client("payer").channels.deposit(world.config(), 500)
    node = world.client("operator")
    channel = node.channels.id_of(world.config())
    mine(chain, 5)
    assert node.channels.read(channel).balance == 0
    mine(chain, 1)
    assert node.channels.read(channel).balance == 500
    assert world.client("operator", confirmations=1).finality.number() == chain.head.block_number


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_walk_yields_only_deep_headers_and_says_which_were_taken_back(depth: int):
    world, chain = unfinished_world()
    mine(chain, 20)
    walk = world.client("anybody", confirmations=3).walk_headers()
    first = world.next_header()
    world.send_post(first)
    mine(chain, 1)
    assert walk.next() is None
    mine(chain, 1)
    found = walk.next()
    assert found is not None
    assert not isinstance(found, Reorganised)
    assert found.header == first
    start = chain.head.block_number
    gone = []
    for _ in range(depth):
        gone.append(world.next_header())
        world.send_post(gone[-1])
    mine(chain, 2)
    assert [walk.next().header for _ in gone] == gone  # type: ignore[union-attr]
    assert walk.next() is None

    chain.revert_to(start)
    assert walk.next() == Reorganised(1), "however deep the stated depth is, this is noticed"
    mine(chain, 5)
    other = world.next_header(batch_digest=b"\x33" * 32)
    world.send_post(other)
    assert walk.next() is None
    mine(chain, 2)
    found = walk.next()
    assert found is not None
    assert not isinstance(found, Reorganised)
    assert found.header == other


def test_a_branch_that_comes_back_is_read_again():
    world, chain = memory_world()
    world.earn(1000)
    walk = world.client("anybody").walk_headers()
    assert walk.next() is None
    start = chain.head.block_number
    chain.randomness = lambda: bytes(32)
    header = world.next_header()
    world.send_post(header)
    head = chain.head
    assert walk.next().header == header  # type: ignore[union-attr]
    assert walk.next() is None

    (sent,) = chain.revert_to(start, time_too=True)
    chain.mine()
    assert chain.head.hash != head.hash
    assert walk.next() == Reorganised(0)
    assert walk.next() is None
    chain.revert_to(start, time_too=True)
    chain.send(sent)
    assert chain.head.hash == head.hash
    assert walk.next().header == header  # type: ignore[union-attr]
    assert walk.next() is None


def test_where_nothing_is_new_one_block_is_asked_for():
    world, chain = memory_world()
    world.earn(1000)
    provider = slow_chain(chain, 0.0)
    client = ChainClient(Rpc("counted", provider=provider), world.deployment, secret("anybody"))
    headers = client.walk_headers()
    world.send_post(world.next_header())
    assert headers.next() is not None
    assert headers.next() is None
    provider.calls.clear()
    assert headers.next() is None
    assert provider.calls == {"eth_getBlockByNumber": 1}
    chain.mine()
    assert headers.next() is None
    assert provider.calls["eth_call"] == 1, "a lie that was convicted takes headers back"


def test_a_chain_that_was_started_anew_is_told_from_a_reorganisation():
    world, _ = memory_world()
    world.earn(1000)
    walk = world.client("anybody").walk_headers()
    world.send_post(world.next_header())
    assert walk.next() is not None
    other, _ = memory_world()
    walk._contract.rpc._endpoints._endpoints[0].provider._local = (  # type: ignore[attr-defined]
        other.rpc._endpoints._endpoints[0].provider._local  # type: ignore[attr-defined]
    )
    with pytest.raises(WrongChain, match="started anew"):
        walk.next()


def test_a_reverted_development_chain_goes_on(tmp_path: Path):
    _, chain = memory_world()
    rpc = memory_rpc(chain)
    snapshot = rpc.call("evm_snapshot")
    head = rpc.get_block()
    mine(chain, 3)
    assert rpc.call("evm_revert", snapshot) is True
    assert rpc.get_block() == head
    mine(chain, 1)
    assert rpc.block_number() == head.number + 1
    assert rpc.call("evm_revert", hex(10**6)) is False
    assert rpc.code(address("nobody"), 0) == b""
