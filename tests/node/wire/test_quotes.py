"""The quote protocol, byte by byte: our code and a stranger's read and write the vectors, and no
other bytes pass.
"""

from __future__ import annotations

import json
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import Residency
from node.errors import RefusalCode
from node.wire import quote as wire
from node.wire.infer import MAX_PROMPT_TOKENS, MAX_TOKENS, WireError
from proofs.cocktail import MAX_PARENTS
from tests.golden import other
from tests.golden.world import named

EXCHANGES = other.load("quote")["exchanges"]
MESSAGES = [message for exchange in EXCHANGES for message in exchange]
AMOUNTS = st.integers(0, (1 << 63) - 1)
COUNTS = st.integers(0, wire.MAX_COUNT)
MS = st.integers(0, wire.MAX_MS)
DIGESTS = st.binary(min_size=32, max_size=32)
ASKS = st.builds(
    wire.AskQuote,
    DIGESTS,
    DIGESTS,
    st.lists(DIGESTS, max_size=MAX_PARENTS),
    st.integers(1, MAX_PROMPT_TOKENS),
    st.integers(1, MAX_TOKENS),
    AMOUNTS,
    AMOUNTS,
)
ANSWERS = st.one_of(
    st.builds(wire.NoQuote, st.sampled_from(get_args(RefusalCode))),
    st.builds(
        wire.Quote,
        st.sampled_from(get_args(Residency)),
        st.none() | AMOUNTS,
        *[COUNTS] * 3,
        *[AMOUNTS] * 2,
        *[MS] * 2,
        st.integers(1, wire.MAX_COUNT),
    ),
)


def decode(name: str, frame: bytes) -> wire.AskQuote | wire.FromNode:
    return wire.decode_ask(frame) if name == "AskQuote" else wire.decode_answer(frame)


@pytest.mark.parametrize("message", MESSAGES)
def test_our_code_and_a_strangers_read_and_write_the_vectors(message: dict[str, Any]) -> None:
    frame = other.unhex(message["hex"])
    found = decode(message["message"], frame)
    assert type(found).__name__ == message["message"]
    assert json.loads(json.dumps(named(found))) == message["fields"]
    assert wire.encode(found) == frame
    plain = [message["message"], *other.plain(message["fields"])]
    assert other.pack(plain) == frame
    assert msgpack.unpackb(frame) == plain
    assert len(frame) <= wire.MAX_QUOTE_BYTES


def test_every_message_has_a_vector_and_every_residency_is_in_one_place() -> None:
    kinds = {"AskQuote", *(kind.__name__ for kind in get_args(wire.FromNode))}
    assert {message["message"] for message in MESSAGES} == kinds


@given(message=ASKS | ANSWERS)
def test_every_message_within_its_bounds_is_read_back_and_fits(message: Any) -> None:
    frame = wire.encode(message)
    assert decode(type(message).__name__, frame) == message
    assert len(frame) <= wire.MAX_QUOTE_BYTES


@given(message=ASKS | ANSWERS, data=st.data())
def test_a_message_out_of_its_bounds_is_refused(message: Any, data: st.DataObject) -> None:
    fields = [type(message).__name__, *(getattr(message, f) for f in message.__struct_fields__)]
    place = data.draw(st.integers(1, len(fields) - 1))
    fields[place] = data.draw(
        st.sampled_from([-1, 1 << 63, "?", b"", None, 1.5, [], wire.MAX_MS + (1 << 33)])
    )
    if fields[place] is None and type(message) is wire.Quote and place == 2:
        return  # that is how it says that it does not know
    if fields[place] == [] and message.__struct_fields__[place - 1] == "parents":
        return  # no cocktail
    if fields[place] == wire.MAX_MS + (1 << 33) and _is_amount(message, place):
        return
    with pytest.raises(WireError):
        decode(fields[0], msgspec.msgpack.encode(fields))


def _is_amount(message: Any, place: int) -> bool:
    name = message.__struct_fields__[place - 1]
    return "price" in name or name == "fetch_bytes"


@given(junk=st.binary(max_size=300))
def test_other_bytes_are_no_message(junk: bytes) -> None:
    for name in ("AskQuote", "Quote"):
        try:
            found = decode(name, junk)
        except WireError:
            continue
        assert wire.encode(found) == junk


@pytest.mark.parametrize("extra", [b"\x00", b"\xc0"])
def test_a_message_with_more_behind_it_is_refused(extra: bytes) -> None:
    for message in MESSAGES:
        with pytest.raises(WireError):
            decode(message["message"], other.unhex(message["hex"]) + extra)
