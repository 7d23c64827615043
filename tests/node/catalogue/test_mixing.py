from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.catalogue.mixing import parse_mix, write_mix
from node.errors import BadRequest

names = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,8}(@[0-9]{1,3})?\Z")
weights = st.integers(-20_000, 20_000).filter(bool)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, weights), min_size=1, max_size=8))
def test_what_is_written_is_read_again(mix: list[tuple[str, int]]) -> None:
    assert parse_mix(write_mix(mix)) == mix


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("law:0.7+verse:0.3", [("law", 7_000), ("verse", 3_000)]),
        ("law+verse", [("law", 10_000), ("verse", 10_000)]),
        ("law@2:1.5 + PEER/verse@3:-.25", [("law@2", 15_000), ("PEER/verse@3", -2_500)]),
        ("law:0.0001", [("law", 1)]),
        ("law:2", [("law", 20_000)]),
    ],
)
def test_names_with_weights_are_read(text: str, mix: list[tuple[str, int]]) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize("text", ["law", "law@2", "PEER/law", "law:latest", "base", "", "bafkrei"])
def test_a_name_alone_is_no_cocktail(text: str) -> None:
    assert parse_mix(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("law:0+verse", "not 0"),
        ("law:2.1", "-2 to 2"),
        ("law:-2.0001+verse", "-2 to 2"),
        ("law:0.00001+verse", "four digits"),
        ("law:1.2.3", "no weight"),
        ("law:.", "no weight"),
        ("law+", "no adapter"),
        ("+", "no adapter"),
        ("+".join("abcdefghi"), "at most 8"),
        ("a" * 5_000 + "+b", "2048 characters"),
    ],
)
def test_what_nobody_could_mix_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        parse_mix(text)
