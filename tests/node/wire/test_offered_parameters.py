"""An offer names the version of the parameters by which its receipt divides the fee; a client takes
only what is in force as it sees the chain.
"""

from __future__ import annotations

import pytest

from node.errors import OtherParameters
from node.wire.channels import ChannelRow, Funds, PayerChannel
from node.wire.client_session import Accepted, Agree, ClientSession, Question
from node.wire.metering import FIRST
from node.wire.notary import Notary
from node.wire.session import Fail
from proofs.policies import UNGOVERNED, Policies
from tests.golden.receipts import POLICIES, TERMS
from tests.golden.talks import CHANNEL, GREEDY, PRICE, offer
from tests.golden.world import ADAPTER, BASE, CLIENT, CONFIG, NETWORK, NODE


def asking(policies: Policies) -> ClientSession:
    """A client that has asked for an answer by the golden adapter."""
    row = ChannelRow(CHANNEL, NODE.address, CONFIG, funds=Funds(deposit=1_000_000))
    question = Question(
        BASE,
        ADAPTER,
        (1, 2),
        max_tokens=8,
        terms=GREEDY,
        logprobs=None,
        stop_ids=(),
        client_seed=bytes(32),
        attribution=TERMS,
    )
    session = ClientSession(
        question,
        PayerChannel(row, Notary(CLIENT, NETWORK)),
        PRICE,
        peer="node",
        operator=NODE.address,
        client=CLIENT.address,
        salt=bytes(16),
        clock=lambda: float(offer("paid").started_at),
        policies=policies,
    )
    session.start(0.0)
    return session


@pytest.mark.parametrize(
    ("policies", "offered", "reason"),
    [
        (UNGOVERNED, 1, "set governor"),
        (POLICIES.between(2, 2), 1, "replaced too long ago"),
        (POLICIES.between(1, 1), 2, "not in force yet"),
        (POLICIES.between(1, 2), 3, "never written"),
        (POLICIES.between(1, 1), 0, "replaced too long ago"),
    ],
)
def test_an_offer_by_another_version_is_refused_before_anything_is_paid(
    policies: Policies, offered: int, reason: str
) -> None:
    session = asking(policies)
    (fail,) = session.receive(offer("paid", parameters=offered), 0.0)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, OtherParameters)
    assert reason in str(fail.error)
    assert session.is_over


def test_a_deal_costs_and_divides_by_the_version_of_its_offer() -> None:
    costs = {}
    for version in (1, 2):
        session = asking(POLICIES.between(1, 2))
        (agree,) = session.receive(offer("paid", parameters=version), 0.0)
        assert isinstance(agree, Agree)
        body = agree.deal.receipt(NETWORK, FIRST, [5])
        assert body.parameters == version
        assert body.amount == agree.deal.cost(1)
        costs[version] = body.amount
        assert session.receive(Accepted(), 0.0)
    assert costs == {1: 100 * 4, 2: 150 * 4}


def test_where_nothing_is_paid_the_version_does_not_matter() -> None:
    session = asking(POLICIES.between(2, 2))
    (agree,) = session.receive(offer("unpaid", paid=False, parameters=0), 0.0)
    assert isinstance(agree, Agree)
