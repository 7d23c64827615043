"""What stands behind others is read for whoever is asked about, and a silent chain stops nobody."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from node.config import Config
from node.errors import ConfigError
from node.money.backing import LEARN_DEADLINE_S, MAX_KNOWN, Backing
from node.money.heads import Heads
from node.telemetry import Telemetry
from proofs.chain.deploy import DEVELOPMENT_STAKE, deploy_lori, deploy_stake
from proofs.chain.errors import ChainUnreachable
from proofs.parameters import BY_NAME, STAKE_PER_ANSWER
from proofs.stake import LORI
from tests.node.networks import until
from tests.proofs.chain.world import address, memory_world

A, B = b"a" * 20, b"b" * 20


class Twin:
    """A stake contract that says, refuses or keeps silent."""

    def __init__(self, **stakes: int) -> None:
        self.stakes = {name.encode() * 20: amount for name, amount in stakes.items()}
        self.fails = False
        self.speaks = threading.Event()
        self.speaks.set()
        self.reads: list[list[bytes]] = []

    def stakes_of(self, operators: Sequence[bytes]) -> dict[bytes, int]:
        self.reads.append(list(operators))
        assert self.speaks.wait(30)
        if self.fails:
            raise ChainUnreachable("nobody answers")
        return {one: self.stakes.get(one, 0) for one in operators}


def open_backing(stakes: Any, **changes: Any) -> Backing:
    values = {"terms": lambda: DEVELOPMENT_STAKE, "is_required": True} | changes
    heads: Any = values.pop("heads", None)  # which only those that look again look at
    return Backing(stakes, heads, Telemetry(), **values)


async def test_what_is_asked_about_is_read_once_for_all_and_a_part_follows() -> None:
    twin = Twin(a=150 * LORI)
    backing = open_backing(twin)
    assert backing.part(A, 8) == 1.0, "nobody asked the chain yet"
    await backing.learn([A, B])
    await backing.learn([B, A])
    assert twin.reads == [[A, B]]
    assert [backing.part(A, number) for number in (1, 2, 8)] == [1.0, 0.75, 150 / 800]
    assert [backing.part(B, None), backing.part(b"c" * 20, 1)] == [0.0, 1.0]
    told = backing.describe()
    assert told["required"]
    assert [(one["node"], one["answers"]) for one in told["short"]] == [  # type: ignore[attr-defined]
        ("0x" + B.hex(), 1),
        ("0x" + A.hex(), 8),
    ]


async def test_a_chain_that_refuses_is_left_alone_and_what_was_read_last_counts() -> None:
    twin = Twin(a=150 * LORI)
    backing = open_backing(twin)
    await backing.learn([A])
    twin.fails = True
    await backing.learn([A, B])
    await backing.learn([A, B])
    assert len(twin.reads) == 2, "it is left alone for a while"
    assert (backing.part(A, 8), backing.part(B, 8)) == (150 / 800, 1.0)


async def test_an_answer_waits_for_a_silent_chain_no_longer_than_a_moment() -> None:
    twin = Twin(a=150 * LORI)
    twin.speaks.clear()
    backing = open_backing(twin)
    try:
        with trio.fail_after(LEARN_DEADLINE_S + 20):  # the machine may be busy, the chain waits 30
            await backing.learn([A])
            await backing.learn([A, B])
        assert backing.part(A, 8) == 1.0
        assert len(twin.reads) == 1
    finally:
        twin.speaks.set()


async def test_stake_is_read_again_as_the_chain_grows() -> None:
    world, _ = memory_world()
    client = world.client("deployer")
    lori = deploy_lori(client.wallet, client.wallet.address)
    terms = DEVELOPMENT_STAKE
    at = deploy_stake(client.wallet, lori, world.deployment.settlement, terms)
    stake = client.open_stake(at)
    node = address("operator")
    hundredths = 100
    backing = open_backing(
        stake, heads=Heads(world.rpc), terms=lambda: terms.voted(hundredths), is_required=False
    )
    await backing.learn([node, address("other")])
    assert backing.part(node, 2) == 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backing.run, 0.05)
        await trio.to_thread.run_sync(stake.add, node, 200 * LORI)
        await until(lambda: backing.part(node, 2) == 1.0)
        assert backing.part(address("other"), 1) == 0.0
        nursery.cancel_scope.cancel()
    hundredths = 200
    assert backing.part(node, 2) == 0.5, "a vote asks for twice as much"


async def test_what_is_kept_is_bounded() -> None:
    backing = open_backing(Twin())
    many = [number.to_bytes(20, "big") for number in range(MAX_KNOWN + 5)]
    for start in range(0, len(many), 500):
        await backing.learn(many[start : start + 500])
    assert backing.part(many[-1], 1) == 0.0
    assert backing.part(many[0], 1) == 1.0, "what was asked about longest ago made room"


def test_a_vote_says_how_much_each_answer_needs_within_its_bounds() -> None:
    parameter = BY_NAME[STAKE_PER_ANSWER]
    assert DEVELOPMENT_STAKE.voted(parameter.default) == DEVELOPMENT_STAKE
    least = DEVELOPMENT_STAKE.voted(parameter.least)
    most = DEVELOPMENT_STAKE.voted(parameter.most)
    assert (least.per_answer, most.per_answer) == (LORI, 1_000 * LORI)
    assert (most.needed(3), most.covers(2_999 * LORI)) == (3_000 * LORI, 2)


def test_stake_is_required_by_a_contract_alone(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="require_stake is on"):
        Config(tmp_path, require_stake=True)
    with pytest.raises(ConfigError, match="max_answers is -1"):
        Config(tmp_path, max_answers=-1)
