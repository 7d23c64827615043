"""Every transaction: never dearer than its operator allows, and dearer when it is stuck."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.chain.errors import ChainError, FeeTooHigh, TransactionStuck
from proofs.chain.evm import MemoryChain
from proofs.chain.fees import GWEI, FeeLimits
from proofs.chain.local_rpc import LocalRpc
from proofs.chain.structs import Fees
from proofs.chain.wallet import Wallet
from tests.proofs.chain.world import CHAIN_ID, World, memory_world, secret

LIMITS = FeeLimits(max_fee_wei=100 * GWEI, max_tip_wei=5 * GWEI, bump_after_s=0.02)


@given(st.integers(0, 2**80), st.integers(0, 2**80))
def test_no_offer_is_above_the_limits(base: int, tip: int):
    try:
        fees = LIMITS.offer(base, tip)
    except FeeTooHigh:
        assert tip > LIMITS.max_tip_wei or base + tip > LIMITS.max_fee_wei
        return
    assert base + fees.tip_wei <= fees.max_fee_wei <= LIMITS.max_fee_wei
    assert fees.tip_wei <= LIMITS.max_tip_wei


@given(st.integers(1, 100 * GWEI), st.integers(0, 5 * GWEI), st.integers(1, 2**50))
def test_a_bump_is_enough_to_replace_or_none(fee: int, tip: int, asked: int):
    offered = Fees(fee, min(tip, fee))
    bumped = LIMITS.bump(offered, Fees(asked, min(tip, asked)))
    if bumped is None:
        return
    assert bumped.max_fee_wei * 100 >= offered.max_fee_wei * 112
    assert bumped.tip_wei * 100 >= offered.tip_wei * 112
    assert bumped.tip_wei <= bumped.max_fee_wei <= LIMITS.max_fee_wei


def with_tip(world: World, tip: object) -> None:
    """The node suggests this tip from now on."""
    local: LocalRpc = world.rpc._endpoints._endpoints[0].provider._local
    local._methods["eth_maxPriorityFeePerGas"] = lambda: tip


def test_an_absurd_tip_is_refused_by_name_and_nothing_is_sent(world: World):
    world.earn(1000)
    with_tip(world, hex(10**16))
    payer = world.client("payer")
    nonce = payer.wallet.mined_nonce()
    with pytest.raises(FeeTooHigh, match=r"tip of 10000000 gwei.*max_tip_gwei"):
        payer.channels.deposit(world.config(), 100)
    with pytest.raises(FeeTooHigh):
        world.send_post(world.next_header())
    assert payer.wallet.mined_nonce() == nonce


@pytest.mark.parametrize("tip", [None, "many", 5, "0x", "0x-1", [], hex(2**300)])
def test_a_tip_that_is_no_number_is_an_error_by_name(world: World, tip: object):
    with_tip(world, tip)
    with pytest.raises(ChainError, match=r"for the tip, not a number"):
        world.client("payer").channels.deposit(world.config(), 100)


def send_aside(world: World, chain: MemoryChain, config, results: list[object]) -> threading.Thread:
    """A deposit in a thread of its own, by a wallet that bumps soon."""
    client = world.client("payer", limits=LIMITS)

    def send() -> None:
        try:
            results.append(client.channels.deposit(config, 100))
        except ChainError as error:
            results.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def until(condition) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come")


def test_a_deposit_that_is_stuck_is_offered_more_within_the_limit():
    world, chain = memory_world()
    world.client("payer").channels.sign_deposit(world.config(), 1, 1, 1)
    chain.automine = False
    results: list[object] = []
    thread = send_aside(world, chain, world.config(), results)
    pool = chain._pool
    until(lambda: pool)
    ((sender, nonce),) = pool
    first = pool[sender, nonce].max_fee_per_gas
    until(lambda: pool[sender, nonce].max_fee_per_gas > 2 * first)
    assert list(pool) == [(sender, nonce)], "always the same nonce"
    assert pool[sender, nonce].max_fee_per_gas <= LIMITS.max_fee_wei
    chain.mine()
    thread.join(60)
    assert not isinstance(results[0], Exception), results


def test_what_a_crashed_process_left_stuck_does_not_hold_up_later_ones():
    world, chain = memory_world()
    crashed = world.client("payer", limits=FeeLimits(max_fee_wei=3 * GWEI)).wallet
    chain.automine = False
    nonce = crashed.mined_nonce()
    config = world.config()
    data = world.client("payer").settlement._contract.encode("aggregator")
    left = crashed.sign(
        world.deployment.settlement, data, 60_000, nonce, Fees(chain.base_fee() + 1, 1)
    )
    crashed.broadcast(bytes(left.raw_transaction))
    results: list[object] = []
    thread = send_aside(world, chain, config, results)
    blocked = (crashed.address, nonce)
    until(lambda: chain._pool[blocked].hash != left.hash)
    assert chain._pool[blocked].to == crashed.address, "it is replaced by nothing"
    assert (crashed.address, nonce + 1) in chain._pool
    for _ in range(100):  # one that is offered more at this moment comes into the next block
        chain.mine()
        thread.join(0.2)
        if not thread.is_alive():
            break
    assert not isinstance(results[0], Exception), results
    assert crashed.mined_nonce() == nonce + 2


def receipts_lag(world: World, lag_s: float) -> list[float]:
    """The node counts a transaction at once and shows its receipt later; when it was asked."""
    local: LocalRpc = world.rpc._endpoints._endpoints[0].provider._local
    receipt = local._methods["eth_getTransactionReceipt"]
    asked: list[float] = []

    def lagging(name: str) -> object:
        told = receipt(name)
        if told is not None:
            asked.append(time.monotonic())
        return told if asked and asked[-1] - asked[0] >= lag_s else None

    local._methods["eth_getTransactionReceipt"] = lagging
    return asked


def test_a_deposit_that_a_node_counts_before_it_shows_its_receipt_is_made_once(world: World):
    world.earn(1000)
    client = world.client("payer", limits=LIMITS)
    nonce = client.wallet.mined_nonce()
    asked = receipts_lag(world, lag_s=0.5)
    client.channels.deposit(world.config(), 100)
    assert asked[-1] - asked[0] >= 0.5
    assert client.wallet.mined_nonce() == nonce + 1


def test_a_nonce_that_somebody_else_took_is_seen_after_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("proofs.chain.wallet.RECEIPT_LAG_S", 0.2)
    world, chain = memory_world()
    world.client("payer").channels.sign_deposit(world.config(), 1, 1, 1)
    chain.automine = False
    results: list[object] = []
    thread = send_aside(world, chain, world.config(), results)
    until(lambda: chain._pool)
    other = world.client("payer", limits=FeeLimits(max_fee_wei=200 * GWEI)).wallet
    data = world.client("payer").settlement._contract.encode("aggregator")
    taken = other.sign(
        world.deployment.settlement, data, 60_000, other.mined_nonce(), Fees(150 * GWEI, 5 * GWEI)
    )
    chain._pool.clear()  # as if it never came there: another process's stands in the block
    other.broadcast(bytes(taken.raw_transaction))
    chain.mine()
    chain.automine = True
    thread.join(60)
    assert not isinstance(results[0], Exception), results
    assert other.mined_nonce() == 2


def test_a_transaction_that_is_never_mined_is_given_up_by_name():
    world, chain = memory_world()
    chain.automine = False
    wallet = Wallet(world.rpc, secret("payer"), CHAIN_ID, LIMITS)
    data = world.client("payer").settlement._contract.encode("aggregator")
    with pytest.raises(TransactionStuck, match="not mined after"):
        wallet.send(world.deployment.settlement, data, deadline_s=0.3)
