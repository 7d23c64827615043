"""Several nodes of one chain: the first that works is asked, none is believed that is of another
chain, and what each is up to is told.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from web3.providers import BaseProvider

from proofs.chain.endpoints import LONGEST_REST_S, Endpoint, Endpoints, shown
from proofs.chain.errors import ChainUnreachable, OddAnswer, RpcRefused, WrongChain
from proofs.chain.rpc import Rpc


class Node(BaseProvider):
    """Answers what it is told to, or raises it."""

    def __init__(self, answer: object, chain_id: object = "0x1") -> None:
        super().__init__()
        self.answer = answer
        self.chain_id = chain_id
        self.asked = 0

    def make_request(self, method, params):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if method == "eth_chainId":
            return {"result": self.chain_id}
        return {"result": self.answer} if not isinstance(self.answer, dict) else self.answer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def endpoints(*nodes: Node, clock: Clock | None = None) -> Endpoints:
    named = [Endpoint(f"node {number}", node) for number, node in enumerate(nodes)]
    return Endpoints(named, clock or Clock())


@pytest.mark.parametrize(
    "trouble",
    [
        ChainUnreachable("down"),
        ValueError("not JSON"),
        "many",
        None,
        {"error": {"code": -32005, "message": "daily request limit: too many requests"}},
        {},
    ],
)
def test_the_next_node_answers_for_one_that_is_down_odd_or_busy(trouble: object):
    first = Node(trouble)
    second = Node("0x10")
    group = endpoints(first, second)
    assert group.make_request("eth_blockNumber", ())["result"] == "0x10"
    assert group.make_request("eth_blockNumber", ())["result"] == "0x10"
    assert (first.asked, second.asked) == (1, 2), "a node that failed rests"
    assert [bool(one.trouble) for one in group.health()] == [True, False]


def test_what_a_node_refuses_is_an_answer_and_no_other_node_is_asked():
    first = Node({"error": {"code": -32000, "message": "insufficient funds"}})
    second = Node("0x10")
    with pytest.raises(RpcRefused, match="insufficient funds"):
        endpoints(first, second).make_request("eth_estimateGas", ({},))
    assert second.asked == 0


def test_a_node_that_comes_back_is_asked_again_and_rests_longer_each_time_it_fails():
    clock = Clock()
    first = Node(ChainUnreachable("down"))
    second = Node("0x10")
    group = endpoints(first, second, clock=clock)
    asked_at = []
    for _ in range(4000):
        before = first.asked
        group.make_request("eth_blockNumber", ())
        if first.asked > before:
            asked_at.append(clock.now)
        clock.now += 1
    pauses = [later - earlier for earlier, later in pairwise(asked_at)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == LONGEST_REST_S
    first.answer = "0x11"
    clock.now += LONGEST_REST_S
    assert group.make_request("eth_blockNumber", ())["result"] == "0x11"
    assert [one.trouble for one in group.health()] == ["", ""]


def test_when_none_answers_all_were_asked_and_each_is_named():
    nodes = [Node(ChainUnreachable("down")), Node("many")]
    group = endpoints(*nodes)
    for _ in range(2):  # resting or not: there is nobody else
        with pytest.raises(ChainUnreachable, match=r"node 0: down.*node 1: .*'many'"):
            group.make_request("eth_blockNumber", ())
    assert [node.asked for node in nodes] == [2, 2]
    with pytest.raises(OddAnswer, match="'many'"):
        endpoints(Node("many")).make_request("eth_blockNumber", ())


def test_a_node_of_another_chain_is_never_believed():
    first = Node("0x10", chain_id="0x2")
    second = Node("0x11")
    group = endpoints(first, second)
    group.pin(1)
    assert group.make_request("eth_blockNumber", ())["result"] == "0x11"
    assert "chain 2, not 1" in group.health()[0].trouble
    group = endpoints(first)
    group.pin(1)
    with pytest.raises(WrongChain, match="chain 2, not 1"):
        group.make_request("eth_blockNumber", ())


def test_the_secret_in_a_nodes_address_is_not_told():
    assert shown("https://me:word@node.example:8545/v3/secret?key=secret") == (
        "https://node.example:8545"
    )
    rpc = Rpc(["http://127.0.0.1:9/v3/secret"])
    with pytest.raises(ChainUnreachable) as refused:
        rpc.block_number()
    rpc.close()
    assert "refused" in str(refused.value)
    assert "secret" not in str(refused.value)
