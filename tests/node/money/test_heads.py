"""Who looks at the chain when: whenever there is something new, all the same after a while, and
otherwise not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from web3.providers import BaseProvider

from node.money.heads import LOOK_ANYWAY, Heads
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import LocalRpc
from proofs.chain.rpc import Rpc
from tests.node.networks import open_lab, until

from .test_odd_chain import open_proxy

INTERVAL_S = 0.02
START = 1_800_000_000
HEAD = "eth_getBlockByNumber"
Answer = Callable[[Any], Any]


class Node(BaseProvider):
    """Answers as the chain's node does, or as it is told to; counts what it is asked."""

    def __init__(self, chain: MemoryChain) -> None:
        super().__init__()
        self._local = LocalRpc(chain)
        self.mode: Answer | None = None
        self.asked = Counter[str]()

    def make_request(self, method: Any, params: Any) -> Any:
        self.asked[method] += 1
        answer = self._local.answer({"id": 1, "method": method, "params": params})
        return answer if self.mode is None else self.mode(answer)


class Scene:
    """A chain, its node, and a part that looks at it."""

    def __init__(self) -> None:
        self.chain = MemoryChain(31337, {}, {}, clock=lambda: START)
        self.chain.mine()
        self.node = Node(self.chain)
        self.heads = Heads(Rpc("memory", provider=self.node))
        self.is_under_way = False
        self.turns = self.heads.turns(INTERVAL_S, lambda: self.is_under_way)

    async def look(self) -> int:
        """One turn, which goes well; how often the newest block was asked for until it came."""
        before = self.node.asked[HEAD]
        with trio.fail_after(60):
            await self.turns.next()
        self.turns.looked()
        return self.node.asked[HEAD] - before

    async def look_anyway(self) -> int:
        """One turn that comes because none came for long."""
        began = trio.current_time()
        asked = await self.look()
        assert trio.current_time() - began >= (LOOK_ANYWAY - 1) * INTERVAL_S
        return asked


async def test_a_chain_on_which_nothing_happens_is_looked_at_seldom() -> None:
    scene = Scene()
    assert await scene.look() == 1
    for _ in range(2):
        assert await scene.look_anyway() <= LOOK_ANYWAY
    assert set(scene.node.asked) == {HEAD}


def replace_head(chain: MemoryChain) -> None:
    chain.revert_to(chain.head.block_number - 1)
    chain.mine()


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(MemoryChain.mine, id="a block"),
        pytest.param(replace_head, id="another block at the same height"),
        pytest.param(lambda chain: chain.revert_to(0), id="a block less"),
    ],
)
async def test_news_are_looked_at_in_the_next_interval(
    happens: Callable[[MemoryChain], object],
) -> None:
    scene = Scene()
    await scene.look()
    happens(scene.chain)
    assert await scene.look() == 1


async def test_a_node_that_stands_still_does_not_hide_anything_for_long() -> None:
    scene = Scene()
    await scene.look()
    still = scene.node._local.answer({"id": 1, "method": HEAD, "params": ["latest"]})
    scene.node.mode = lambda _: still
    scene.chain.mine()
    assert await scene.look() <= LOOK_ANYWAY


@pytest.mark.parametrize("result", [None, "many", 5, [], {"number": None}])
async def test_a_node_that_tells_no_block_is_met_by_whoever_looks(result: object) -> None:
    scene = Scene()
    await scene.look()
    scene.node.mode = lambda answer: {**answer, "result": result}
    for _ in range(3):
        assert await scene.look() <= 1
    scene.node.mode = None
    with trio.fail_after(60):
        while await scene.turns.next() is None:
            pass
    scene.turns.looked()
    await scene.look_anyway()  # it is well again, and nothing is new


async def test_a_look_that_failed_is_repeated() -> None:
    scene = Scene()
    with trio.fail_after(60):
        for _ in range(3):
            assert await scene.turns.next() is not None
    assert scene.node.asked[HEAD] <= 3


async def test_what_no_block_brings_is_looked_for_in_each_interval() -> None:
    scene = Scene()
    await scene.look()
    scene.is_under_way = True
    for _ in range(3):
        assert await scene.look() <= 1


async def test_many_parts_ask_once() -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scene.heads.turns(60, lambda: False).next)
    assert scene.node.asked == {HEAD: 1}


async def test_the_chains_clock_is_known_without_a_new_block() -> None:
    scene = Scene()
    assert scene.heads.has_come(START + 10**6), "nothing is known: it may have"
    await scene.look()
    now = scene.chain.head.timestamp
    assert scene.heads.has_come(now)
    assert not scene.heads.has_come(now + 100)
    await until(lambda: scene.heads.has_come(now + 1.5))


async def test_an_idle_daemon_asks_its_chain_for_little_but_the_newest_block(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("gateway",)) as lab:
        assert lab.chain is not None
        asked = Counter[str]()

        def count(question: Any, answer: Any) -> Any:
            asked[f"{question['method']} {question['params'][:1]}"] += 1
            return answer

        with open_proxy(lab.chain.rpc) as proxy:
            settings: dict[str, Any] = {"chain_rpc": (proxy.url,), "watch_interval_s": 0.2}
            async with lab.daemon("gateway", role="gateway", **settings) as daemon:
                assert daemon.money is not None
                assert daemon.money.mirror is not None
                await daemon.money.mirror.level.wait()
                proxy.mode = count
                newest = f"{HEAD} ['latest']"
                await until(lambda: asked[newest] >= 2 * LOOK_ANYWAY, 120)
                # Each part looks at most once in so many intervals.
                assert asked.total() - asked[newest] < asked[newest]
