"""Texts of token ids: what is written is read, and what nobody should read is refused by name."""

from __future__ import annotations

import hashlib
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.background import write_background
from proofs.attribution.tokens import (
    MAX_HEADER_BYTES,
    Contribution,
    Place,
    read_tokens,
    write_tokens,
)
from proofs.errors import TokensError

TOKENIZER = bytes(range(32))
DOCUMENTS = st.lists(
    st.lists(st.integers(0, 300_000) | st.integers(0, 3), min_size=1, max_size=12),
    min_size=1,
    max_size=4,
)
CONTRIBUTIONS = st.lists(
    st.builds(Contribution, contributor=st.integers(0, 4), documents=DOCUMENTS),
    min_size=1,
    max_size=6,
)


def text(*contributions: tuple[int, list[list[int]]], people: int = 2) -> bytes:
    return write_tokens(TOKENIZER, people, [Contribution(*one) for one in contributions])


def rewritten(data: bytes, **changed: object) -> bytes:
    """The same file with other fields in its header."""
    names = "kind version tokenizer_hash width num_ranks num_contributors contributions gaps"
    size = int.from_bytes(data[:4], "big")
    fields = dict(zip(names.split(), msgpack.unpackb(data[4 : 4 + size]), strict=True)) | changed
    packed = msgpack.packb(list(fields.values()))
    head = len(packed).to_bytes(4, "big") + packed
    return head + bytes(-len(head) % 64) + data[4 + size + -(4 + size) % 64 :]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(CONTRIBUTIONS)
def test_what_is_written_is_read(given_: list[Contribution]) -> None:
    data = write_tokens(TOKENIZER, 5, given_)
    tokens = read_tokens(memoryview(data))
    written = [list(document) for one in given_ for document in one.documents]
    assert [tokens.document(d).tolist() for d in range(tokens.num_documents)] == written
    assert tokens.contributions == tuple((one.contributor, len(one.documents)) for one in given_)
    assert tokens.num_tokens == sum(map(len, written))
    assert tokens.digest == hashlib.sha256(data).digest()
    assert tokens.tokenizer_hash == TOKENIZER


@settings(derandomize=True, max_examples=40, deadline=None)
@given(CONTRIBUTIONS)
def test_every_token_knows_its_place(given_: list[Contribution]) -> None:
    tokens = read_tokens(write_tokens(TOKENIZER, 5, given_))
    places = [
        Place(one.contributor, number, document, offset)
        for number, one in enumerate(given_)
        for document, ids in enumerate(one.documents)
        for offset in range(len(ids))
    ]
    positions = np.flatnonzero(tokens.ranks).tolist()
    assert [tokens.place_of(position) for position in positions] == places


def test_ids_of_a_large_vocabulary_take_two_bytes_each() -> None:
    ids = [7 * number for number in range(20_000)]
    data = text((0, [ids]))
    assert len(data) < 2 * len(ids) + 1.1 * len(ids)  # a byte for the gap of each id that is new
    tokens = read_tokens(data)
    assert tokens.ranks_of([0, 7, 8, -1, 1 << 30]).tolist() == [1, 2, 20_001, 20_001, 20_001]


def test_more_ids_than_two_bytes_tell_take_four() -> None:
    ids = np.arange(1 << 16)
    assert read_tokens(text((0, [ids[:-1].tolist()]))).ranks.itemsize == 2
    tokens = read_tokens(text((0, [ids.tolist()])))
    assert tokens.ranks.itemsize == 4
    assert tokens.document(0).tolist() == ids.tolist()


def test_a_background_has_no_contributors_and_may_be_empty() -> None:
    tokens = read_tokens(write_background(TOKENIZER, [[1, 2], [3]]))
    assert (tokens.num_contributors, tokens.contributions, tokens.num_documents) == (0, (), 2)
    assert read_tokens(write_background(TOKENIZER, [])).num_tokens == 0


GOOD = text((0, [[1, 2, 3], [2, 9]]), (1, [[3, 3]]))
# gaps 1 1 1 6; ranks 0 1 2 3 0 2 4 0 3 3 0


def with_ranks(*ranks: int) -> bytes:
    packed = np.array(ranks, dtype="<u2").tobytes()
    return rewritten(GOOD, num_ranks=len(ranks))[: -2 * 11] + packed


REFUSED = {
    "nothing": (b"", "size"),
    "half a length": (b"\0\0", "size"),
    "a header longer than the file": (GOOD[:30], "size"),
    "a header above the bound": ((MAX_HEADER_BYTES + 1).to_bytes(4, "big") + GOOD, "size"),
    "one byte too few": (GOOD[:-1], "size"),
    "one byte too many": (GOOD + b"\0", "size"),
    "more ranks than said": (rewritten(GOOD, num_ranks=10), "size"),
    "ranks beyond every bound": (rewritten(GOOD, num_ranks=1 << 40), "schema"),
    "text in the header": (rewritten(GOOD, gaps="abc"), "schema"),
    "another kind": (rewritten(GOOD, kind="something"), "version"),
    "a later version": (rewritten(GOOD, version=2), "version"),
    "three bytes a rank": (rewritten(GOOD, width=3), "width"),
    "four bytes where two do": (rewritten(GOOD, width=4), "width"),
    "an id twice": (rewritten(GOOD, gaps=[1, 1, 0, 6]), "vocabulary"),
    "an id above all": (rewritten(GOOD, gaps=[1, 1, 1, (1 << 31) - 1]), "vocabulary"),
    "an id that occurs nowhere": (rewritten(GOOD, gaps=[1, 1, 1, 6, 1]), "vocabulary"),
    "a rank without an id": (rewritten(GOOD, gaps=[1, 1, 1]), "ranks"),
    "no end mark first": (with_ranks(1, 2, 3, 0, 4, 0, 3, 0), "documents"),
    "no end mark last": (with_ranks(0, 1, 2, 3, 0, 4, 0, 3), "documents"),
    "an empty document": (with_ranks(0, 1, 2, 3, 0, 0, 4, 0), "documents"),
    "a contributor that there is not": (rewritten(GOOD, num_contributors=1), "contributions"),
    "too many contributors": (rewritten(GOOD, num_contributors=49), "schema"),
    "contributors who gave nothing": (rewritten(GOOD, contributions=[]), "contributions"),
    "a document too few": (rewritten(GOOD, contributions=[[0, 2]]), "contributions"),
    "more documents than an array counts": (
        rewritten(GOOD, contributions=[[0, 1 << 63]]),
        "schema",
    ),
    "a background with contributions": (rewritten(GOOD, num_contributors=0), "contributions"),
    "something between header and ranks": (GOOD[:-23] + b"\1" + GOOD[-22:], "canonical"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bytes_that_nobody_should_read_are_refused_by_name(case: str) -> None:
    data, rule = REFUSED[case]
    assert read_tokens(GOOD).num_documents == 3
    with pytest.raises(TokensError) as refused:
        read_tokens(data)
    assert refused.value.rule == rule


def test_a_longer_form_of_a_header_is_refused() -> None:
    size = int.from_bytes(GOOD[:4], "big")
    longer = GOOD[4 : 4 + size].replace(b"\xc4\x20", b"\xc5\x00\x20")  # the hash as bin 16
    head = len(longer).to_bytes(4, "big") + longer
    with pytest.raises(TokensError) as refused:
        read_tokens(head + bytes(-len(head) % 64) + GOOD[-22:])
    assert refused.value.rule == "canonical"


@settings(derandomize=True, max_examples=120, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_spoilt_bytes_are_refused_or_say_something_else(at: int, change: int) -> None:
    spoilt = bytearray(GOOD)
    spoilt[at] ^= change
    try:
        tokens = read_tokens(bytes(spoilt))
    except TokensError:
        return
    assert tokens.digest != read_tokens(GOOD).digest


@pytest.mark.parametrize("document", [[], [-1], [1 << 31], [[1], [2]]])
def test_what_nobody_would_accept_is_not_written(document: list[int]) -> None:
    with pytest.raises(TokensError):
        text((0, [document]))


def test_a_contributor_outside_the_list_is_not_written() -> None:
    with pytest.raises(TokensError, match="contributor 2"):
        text((2, [[1]]))


def test_more_ranks_than_a_reader_takes_are_refused_before_they_are_read() -> None:
    data = text((0, [[5, 6]]))
    assert read_tokens(data, 4).num_tokens == 2
    with pytest.raises(TokensError, match="4 ranks; at most 3"):
        read_tokens(data, 3)


def test_a_text_of_nothing_but_short_documents_takes_little_memory_to_read() -> None:
    num_documents = 1 << 20
    data = rewritten(
        text((0, [[5]])), num_ranks=2 * num_documents + 1, contributions=[[0, 1 << 20]]
    )
    data = data[: -3 * 2] + (b"\0\0\1\0" * num_documents + b"\0\0")
    tracemalloc.start()
    try:
        tokens = read_tokens(data)
        assert tokens.starts.tolist() == [0, 2 * num_documents]
        assert tokens.num_tokens == tokens.num_documents == num_documents
        assert tokens.place_of(num_documents + 1) == Place(0, 0, num_documents // 2, 0)
        assert tracemalloc.get_traced_memory()[1] < 14 << 20
    finally:
        tracemalloc.stop()
