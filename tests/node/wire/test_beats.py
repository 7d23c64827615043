"""A node that has nothing to say says so; that keeps nobody waiting for ever."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from engine import messages as m
from node.errors import NodeVanished
from node.wire import client_session as client
from node.wire import infer as wire
from node.wire.metering import Price
from node.wire.node_session import TOKEN_DEADLINE_S, AdapterHeld, NodeSession, NodeTerms
from node.wire.session import Fail, Send, Tick

from .test_resumed import ASK, BASE, NODE, READY, STARTED_AT

SEED = b"s" * 32
FREE = msgspec.structs.replace(ASK, channel=None, seed_commitment=hashlib.sha256(SEED).digest())
NO_TOKENS = wire.Output([], [])


def answering() -> NodeSession:
    """A session whose client has begun; its adapter is on its way."""
    terms = NodeTerms(BASE, NODE.address, NODE.address, Price(0, 0), is_paid=False, engine=READY)
    session = NodeSession(terms, node_seed=bytes(32), clock=lambda: float(STARTED_AT))
    session.start(0.0)
    session.receive(FREE, 0.0)
    session.receive(wire.Begin(SEED, bytes(16), None), 0.0)
    return session


def sent(actions: Any) -> list[wire.Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def test_a_node_beats_while_its_adapter_comes_and_while_its_engine_is_busy() -> None:
    session = answering()
    assert session.deadline == wire.BEAT_S
    assert sent(session.receive(Tick(), 1.0)) == [NO_TOKENS]
    session.receive(AdapterHeld(None, {}), 1.5)
    assert session.deadline == 2.0
    assert sent(session.receive(Tick(), 2.0)) == [NO_TOKENS]
    assert sent(session.receive(m.Tokens(0, [7], 1), 2.5)) == [wire.Output([7], [])]
    assert session.deadline == 3.5, "tokens are a sign of life as well"


def test_beats_end_with_the_answer() -> None:
    session = answering()
    session.receive(AdapterHeld(None, {}), 0.5)
    numbers = {"load_ms": 0.0, "prefill_ms": 0.0, "decode_ms": 0.0, "neighbours": 1}
    session.receive(m.Finished(0, "stop", 1, 0, 0.0, **numbers), 0.75)
    assert session.is_over
    assert session.receive(Tick(), 5.0) == []


def test_an_engine_that_is_stuck_ends_the_answer_though_its_node_beats() -> None:
    session = answering()
    session.receive(AdapterHeld(None, {}), 0.0)
    now = 0.0
    failures: list[Fail] = []
    while not failures:
        now = session.deadline
        failures = [one for one in session.receive(Tick(), now) if isinstance(one, Fail)]
    assert now == TOKEN_DEADLINE_S


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_a_client_waits_no_longer_for_tokens_because_of_beats(num_tokens: int) -> None:
    question = client.Question(
        base=BASE,
        adapter=bytes(32),
        prompt_ids=(1, 2),
        max_tokens=8,
        terms=ASK.terms,
        logprobs=None,
        stop_ids=(),
        client_seed=SEED,
        attribution=None,
    )
    session = client.ClientSession(
        question,
        None,
        Price(0, 0),
        peer="node",
        operator=NODE.address,
        client=ASK.client,
        salt=bytes(16),
        clock=lambda: float(STARTED_AT),
    )
    session.start(0.0)
    offer = wire.Offer(
        bytes(32), False, 0, 0, NODE.address, b"", STARTED_AT, attributed=False, parameters=0
    )
    session.receive(offer, 0.0)
    session.receive(client.Accepted(), 0.0)
    if num_tokens:
        session.receive(wire.Output([5], []), 0.0)
    until = session.deadline
    for now in (1.0, 2.0, 3.0):
        (emit,) = session.receive(NO_TOKENS, now)
        assert emit == client.Emit(NO_TOKENS)
    assert session.deadline == until
    (fail,) = session.receive(Tick(), until)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, NodeVanished)
