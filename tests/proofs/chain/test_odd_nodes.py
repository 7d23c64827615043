"""A node answers with anything at all: what comes of it is an answer, or a ChainError."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3.providers import BaseProvider

from proofs.chain.client import ChainClient
from proofs.chain.errors import ChainError, OddAnswer, WrongChain
from proofs.chain.evm import MemoryChain
from proofs.chain.fees import FeeLimits
from proofs.chain.local_rpc import LocalRpc
from proofs.chain.origin import Stated, find_deployment
from proofs.chain.poster import Poster
from proofs.chain.rpc import Rpc
from proofs.ledger import Ledger, PostJournal
from tests.proofs.chain.world import World, memory_world, secret

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**300),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0x", "0x0", "-0x1", "0xzz", "many", "0x" + "f" * 200, hex(2**64), "latest"]),
    st.binary(max_size=70).map(lambda data: "0x" + data.hex()),
    st.lists(st.none() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=8), st.none() | st.integers(), max_size=3),
)


class Mangling(BaseProvider):
    """The chain's own answers, until a call whose answer is replaced, wholly or in one field."""

    def __init__(self, chain: MemoryChain) -> None:
        super().__init__()
        self._local = LocalRpc(chain)
        self.mangle: Callable[[str, Any], Any] = lambda _, answer: answer

    def make_request(self, method, params):
        answer = self._local.answer({"id": 1, "method": method, "params": params})
        return self.mangle(method, copy.deepcopy(answer))


def replace_part(answer: Any, path: list[int], junk: Any) -> Any:
    """The answer with what lies at the end of a path replaced; each number chooses a member."""
    if not path or not isinstance(answer, dict | list) or not answer:
        return junk
    keys: Any = sorted(answer) if isinstance(answer, dict) else range(len(answer))
    key = keys[path[0] % len(keys)]
    answer[key] = replace_part(answer[key], path[1:], junk)
    return answer


class Scene:
    def __init__(self) -> None:
        self.world, self.chain = memory_world()
        self.provider = Mangling(self.chain)
        self.rpc = Rpc("odd", provider=self.provider)
        limits = FeeLimits(bump_after_s=0.01)
        self.client = ChainClient(
            self.rpc, self.world.deployment, secret("payer"), 0.05, limits=limits
        )
        self.config = self.world.config()
        self.world.client("payer").channels.deposit(self.config, 1000)
        self.world.earn(1000)
        self.world.send_post(self.world.next_header())
        self.channel = self.client.channels.id_of(self.config)
        self.header = self.world.next_header()
        self.poster = Poster(self.client, PostJournal(Ledger(":memory:")))

    def questions(self) -> list[Callable[[], Any]]:
        client = self.client
        return [
            lambda: client.channels.read(self.channel).balance,
            lambda: [state.balance for state in client.channels.read_many([self.channel] * 3)],
            lambda: [posted.header.epoch for posted in client.settlement.headers()],
            lambda: client.walk_headers().next(),
            lambda: client.settlement.read(),
            lambda: client.settlement.aggregator(),
            lambda: client.token.balance_of(client.address) >= 0,
            lambda: find_deployment(
                Rpc("odd", provider=self.provider), self.world.deployment.settlement, Stated()
            ),
            lambda: client.channels.deposit(self.config, 1) and None,
            lambda: self.poster.find(self.header),
            lambda: client.wallet.suggest_fees().max_fee_wei > 0,
            lambda: client.read_origin(),
        ]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_a_header_that_is_counted_and_not_shown_is_an_odd_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    settlement = scene.client.settlement
    assert [posted.header.epoch for posted in settlement.headers()] == [1]
    monkeypatch.setattr(settlement, "_search", lambda _: [])
    with pytest.raises(OddAnswer, match="counts 1 headers and shows none of epoch 1"):
        list(settlement.headers())


@settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_a_node_answers_it_is_a_chain_error_or_an_answer(scene: Scene, data):
    questions = scene.questions()
    ask = questions[data.draw(st.integers(0, len(questions) - 1), label="question")]
    at = data.draw(st.integers(0, 6), label="which call")
    path = data.draw(st.lists(st.integers(0, 12), max_size=5), label="which part")
    whole = data.draw(st.booleans(), label="of the whole answer")
    junk = data.draw(JUNK, label="junk")
    calls = 0

    def mangle(_method: str, answer: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= at:
            return answer
        return replace_part(
            answer,
            path
            if whole
            else [sorted(answer).index("result"), *path]
            if "result" in answer
            else path,
            junk,
        )

    scene.provider.mangle = mangle
    try:
        with suppress(ChainError):
            ask()
    finally:
        scene.provider.mangle = lambda _, answer: answer


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("eth_getBlockByNumber", None),
        ("eth_getTransactionCount", None),
        ("eth_getLogs", None),
        ("eth_getTransactionCount", "many"),
        ("eth_blockNumber", 5),
        ("eth_estimateGas", hex(2**64)),
        ("eth_call", {"0x": "0x"}),
        ("eth_getLogs", [None]),
        ("eth_getLogs", "0x"),
    ],
)
def test_the_usual_oddities_have_a_name(scene: Scene, method: str, result: object):
    def mangle(asked: str, answer: Any) -> Any:
        return {"result": result} if asked == method else answer

    scene.provider.mangle = mangle
    try:
        with pytest.raises(OddAnswer):
            if method == "eth_getLogs":
                list(scene.client.settlement.headers())
            elif method == "eth_blockNumber":
                scene.rpc.block_number()
            elif method == "eth_call":
                scene.client.settlement.read()
            else:
                scene.client.channels.deposit(scene.config, 1)
    finally:
        scene.provider.mangle = lambda _, answer: answer


def test_a_chain_without_a_base_fee_is_told(scene: Scene):
    def mangle(asked: str, answer: Any) -> Any:
        if asked == "eth_getBlockByNumber":
            del answer["result"]["baseFeePerGas"]
        return answer

    scene.provider.mangle = mangle
    try:
        with pytest.raises(OddAnswer, match="no baseFeePerGas"):
            scene.client.channels.deposit(scene.config, 1)
    finally:
        scene.provider.mangle = lambda _, answer: answer


def test_logs_that_were_not_asked_for_are_not_believed(scene: Scene):
    def mangle(asked: str, answer: Any) -> Any:
        if asked == "eth_getLogs":
            answer["result"][0]["address"] = "0x" + "11" * 20
        return answer

    scene.provider.mangle = mangle
    try:
        with pytest.raises(OddAnswer, match="other blocks or contracts"):
            list(scene.client.settlement.headers())
    finally:
        scene.provider.mangle = lambda _, answer: answer


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (Stated(chain_id=1), "chain id 1, the chain 31337"),
        (Stated(channels=bytes(20)), "channels 0x0000"),
        (Stated(token=bytes(20)), "token 0x0000"),
    ],
)
def test_what_the_operator_stated_is_compared(world: World, stated: Stated, words: str):
    with pytest.raises(WrongChain, match=words):
        find_deployment(world.rpc, world.deployment.settlement, stated)


def test_what_was_stated_rightly_is_taken(world: World):
    there = world.deployment
    stated = Stated(there.chain_id, there.channels, there.token, first_block=1)
    assert find_deployment(world.rpc, there.settlement, stated).token == there.token
