"""Which contribution each part of an adapter's text was: read as it was written, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from proofs.attribution.listing import MAX_LISTING_BYTES, Listed, read_listing, write_listing
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from proofs.errors import TokensError
from tests.golden.ladders import CONTRIBUTIONS, LISTED, TOKENIZER

GOLDEN = Path(__file__).parents[2] / "golden" / "ladder.json"
TEXT = read_tokens(
    write_tokens(TOKENIZER, 3, [Contribution(who, documents) for who, documents in CONTRIBUTIONS])
)
NUM_DATANETS = 2


def golden() -> bytes:
    return bytes.fromhex(json.loads(GOLDEN.read_text())["listing"])


def changed(place: int, **fields: object) -> bytes:
    """The golden listing with other fields in one of its rows."""
    rows = [Listed(*row) for row in LISTED]
    names = Listed.__struct_fields__
    values = [fields.get(name, getattr(rows[place], name)) for name in names]
    plain = [[getattr(row, name) for name in names] for row in rows]
    plain[place] = values
    return bytes(msgpack.packb(["lorikeet contributors", 1, plain]))


def test_a_listing_is_read_as_it_was_written_and_is_that_of_the_vectors() -> None:
    data = golden()
    assert data == write_listing([Listed(*row) for row in LISTED])
    assert data == msgpack.packb(["lorikeet contributors", 1, [list(row) for row in LISTED]])
    assert read_listing(data, TEXT, NUM_DATANETS) == tuple(Listed(*row) for row in LISTED)


@pytest.mark.parametrize(
    ("data", "rule", "why"),
    [
        (b"", "schema", "."),
        (msgpack.packb(["lorikeet tokens", 1, []]), "version", "this node reads"),
        (msgpack.packb(["lorikeet contributors", 2, []]), "version", "2 is unknown"),
        (msgpack.packb(["lorikeet contributors", 1, []]), "contributions", "0 contributions"),
        (changed(0, contributor=2), "contributions", "contribution 1 is of contributor 2 with 2"),
        (changed(1, documents=[1]), "contributions", "contribution 2 .* with 1 documents"),
        (changed(0, documents=[1, 0]), "schema", "."),
        (changed(0, contribution=b"short"), "schema", "."),
        (changed(3, datanet=2), "datanets", "contribution 4 is of datanet 2, .* names 2"),
        (changed(2, title="\x1b[2J"), "title", "contribution 3 has a hidden character"),
        (changed(2, title="x" * 129), "schema", "."),
        (b"\0" * (MAX_LISTING_BYTES + 1), "size", "."),
        (b"\x93\xd9\x15lorikeet contributors\x01\x90", "canonical", "."),
    ],
)
def test_a_listing_that_is_none_of_this_text_is_refused_by_name(
    data: bytes, rule: str, why: str
) -> None:
    with pytest.raises(TokensError, match=why) as caught:
        read_listing(data, TEXT, NUM_DATANETS)
    assert caught.value.rule == rule


def test_a_listing_of_another_text_is_refused() -> None:
    other = replace(TEXT, contributions=(*TEXT.contributions[:-1], (0, 1)))
    with pytest.raises(TokensError, match=r"contribution 4 is of contributor 1 .* of 0 with 1"):
        read_listing(golden(), other, NUM_DATANETS)
