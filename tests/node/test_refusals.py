"""Each word for an outcome stands in one place, and the pages say the same as the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engine.messages import FromEngine
from node import errors
from node.errors import BY_CODE, NodeError, RefusalCode
from node.http.problems import problem_of
from node.wire.infer import Refusal, WireError, decode_from_node, encode

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)
WORD = re.compile(r"`([a-z_]+)`")


def rows_of(page: str, header: str) -> list[list[str]]:
    """The cells of a page's table that begins with `header`."""
    table = (DOCS / page).read_text().split(header, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in row.split("|")] for row in ROW.findall(table)][1:]


def all_kinds(kind: type[NodeError] = NodeError) -> list[type[NodeError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in all_kinds(child))]


def test_every_word_of_the_wire_is_declared_by_one_error() -> None:
    declaring = [kind.code for kind in all_kinds() if "code" in vars(kind)]
    assert sorted(declaring) == sorted(get_args(RefusalCode))


def test_the_protocols_page_says_of_each_word_whether_to_ask_another_node() -> None:
    told = {
        word: again == "yes"
        for words, _, again in rows_of(
            "protocols/infer.md", "| code | meaning | ask another node? |"
        )
        for word in WORD.findall(words)
    }
    assert told == {code: kind.elsewhere for code, kind in BY_CODE.items()}


def test_the_page_of_use_has_each_error_under_its_status() -> None:
    told = {
        word: int(status)
        for status, words, _ in rows_of("usage.md", "| status | code | means |")
        for word in WORD.findall(words)
    }
    statuses = {
        kind.http_code or kind.code: kind.status
        for kind in all_kinds()
        if kind.status != 500 and kind not in (errors.PaymentError,)
    }
    guards = {  # nobody asked the daemon yet
        "forbidden": 403,
        "no_session": 403,
        "no_such_route": 404,
        "request_timeout": 408,
        "request_too_large": 413,
        "headers_too_large": 431,
        "our_fault": 500,
        "too_many_connections": 503,
        "too_many_bodies": 503,
    }
    assert told == statuses | guards


def test_another_nodes_refusal_keeps_its_word_and_its_fault_is_a_bad_gateway() -> None:
    assert {
        code: problem_of(errors.NodeRefused("peer", code, "no")).status for code in BY_CODE
    } == {
        "bad_request": 400,
        "adapter_refused": 400,
        "wrong_base": 400,
        "unknown_adapter": 404,
        "payment_required": 402,
        "no_channel": 402,
        "busy": 503,
        "engine_lost": 503,
        "no_provider": 503,
        "engine_failed": 502,
        "internal": 502,
    }


def test_a_refusal_in_a_word_of_its_own_is_not_a_message() -> None:
    frame = encode(Refusal("busy", "later"))
    assert decode_from_node(frame) == Refusal("busy", "later")
    with pytest.raises(WireError):
        decode_from_node(msgspec.msgpack.encode(["Refusal", "bored", "later"]))


@pytest.mark.parametrize(
    "message",
    [
        ["Finished", 1, "bored", 1, 1, 0.0, 0.0, 0.0, 0.0, 1],
        ["Failed", 1, "bored", "no"],
    ],
)
def test_an_outcome_that_nobody_knows_is_not_a_message_of_the_engine(message: list[object]) -> None:
    known = [*message[:2], "length" if message[0] == "Finished" else "busy", *message[3:]]
    msgspec.convert(known, FromEngine)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(message, FromEngine)


def test_an_answer_that_ends_in_an_unknown_way_is_not_a_message() -> None:
    with pytest.raises(WireError):
        decode_from_node(msgspec.msgpack.encode(["Done", "bored", 1, [], b"", None]))
    decode_from_node(msgspec.msgpack.encode(["Done", "stop", 1, [], b"", None]))
