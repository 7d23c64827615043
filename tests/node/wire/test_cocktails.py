"""A question for a cocktail brings it along; a node believes nothing of it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from node.errors import BadRequest
from node.wire import infer as wire
from node.wire import node_session as node
from node.wire.node_session import NodeSession, NodeTerms
from node.wire.session import Fail, Send
from proofs.cocktail import make_cocktail
from tests.golden import other
from tests.proofs import scene

from .test_resumed import ASK
from .two_sided import PRICE, READY

PARENTS = [scene.manifest(creator=name) for name in ("law", "verse")]
COCKTAIL = make_cocktail({PARENTS[0]: 7_000, PARENTS[1]: -3_000})
OTHER = make_cocktail({PARENTS[0]: 3_000, PARENTS[1]: -7_000})
GOLDEN = other.load("cocktail")


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def answers(base: bytes = scene.BASE, **asked: Any) -> list[Any]:
    """What an unpaid node says to a question, and to the acceptance of its offer."""
    ready = msgspec.structs.replace(READY, base=base)
    terms = NodeTerms(base, bytes(20), bytes(20), PRICE, False, engine=ready)
    session = NodeSession(terms, node_seed=bytes(32), clock=lambda: 1_795_000_000.0)
    session.start(0.0)
    commitment = digest(bytes(32))
    ask = msgspec.structs.replace(
        ASK, **({"base": base, "channel": None, "seed_commitment": commitment} | asked)
    )
    out = session.receive(ask, 0.0)
    if isinstance(out[-1], Send):
        out += session.receive(wire.Begin(bytes(32), bytes(16), None), 0.0)
    return list(out)


def test_a_cocktail_goes_to_who_mixes_it() -> None:
    deed = answers(adapter=digest(COCKTAIL), cocktail=COCKTAIL)[-1]
    assert deed == node.HoldAdapter(digest(COCKTAIL), COCKTAIL)


@pytest.mark.parametrize(
    ("adapter", "cocktail", "why"),
    [
        (digest(OTHER), COCKTAIL, "not the adapter"),
        (bytes(32), COCKTAIL, "not the adapter"),
        (digest(PARENTS[0]), PARENTS[0], "not valid"),
        (digest(COCKTAIL + b"\0"), COCKTAIL + b"\0", "not valid"),
        *((digest(each), each, "not valid") for each in [b"\x92", b"junk", b"\x92\x01\x90"]),
        *(
            (digest(other.unhex(one["cocktail"])), other.unhex(one["cocktail"]), "not valid")
            for one in GOLDEN["refuse"]
        ),
    ],
)
def test_a_cocktail_that_is_none_is_refused_before_any_offer(
    adapter: bytes, cocktail: bytes, why: str
) -> None:
    [refusal] = answers(adapter=adapter, cocktail=cocktail)
    assert isinstance(refusal, Fail)
    assert isinstance(refusal.error, BadRequest)
    assert why in str(refusal.error)


def test_a_cocktail_of_another_base_is_refused_before_any_offer() -> None:
    [refusal] = answers(base=bytes(32), adapter=digest(COCKTAIL), cocktail=COCKTAIL)
    assert isinstance(refusal, Fail)
    assert "another base" in str(refusal.error)


def test_the_golden_question_is_read_and_a_larger_cocktail_is_no_message() -> None:
    frame = other.unhex(GOLDEN["ask"])
    asked = wire.decode_from_client(frame)
    assert isinstance(asked, wire.Ask)
    assert asked.cocktail.hex() == GOLDEN["cocktail"]
    assert digest(asked.cocktail) == asked.adapter
    larger = msgspec.structs.replace(asked, cocktail=bytes((64 << 10) + 1))
    with pytest.raises(wire.WireError):
        wire.decode_from_client(wire.encode(larger))
