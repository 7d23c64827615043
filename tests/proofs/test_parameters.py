from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.aggregator import Pace
from proofs.attribution.shares import MIN_SHARE_FEE, POLICY
from proofs.digest import keccak
from proofs.errors import ParametersError
from proofs.origin import WHOLE_EIGHTHS
from proofs.parameters import (
    ATTRIBUTION_RULE,
    BY_NAME,
    CREATOR_SHARE,
    DEFAULTS,
    LADDER_1,
    LEAST_FEE,
    MAX_PARAMETERS,
    MOST_LAMBDA,
    NODE_SHARE,
    PARAMETERS,
    PROMISE_S,
    UNGOVERNED,
    WHOLE_BPS,
    Kind,
    Version,
    decode_parameters,
    digest_parameters,
    encode_parameters,
    in_force,
    read_change,
    rule_on,
    show_value,
)
from tests.golden import other

VECTORS = other.load("parameters")
GOLDEN = Path(other.__file__).parent
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=31)
ANY_VALUE = st.integers(0, (1 << 256) - 1)


def any_values() -> st.SearchStrategy[dict[str, int]]:
    """Any set of values that a contract can have: known names, strange ones, in any order."""
    known = [st.tuples(st.just(one.name), st.integers(0, one.kind.most)) for one in PARAMETERS]
    strange = st.tuples(NAMES.filter(lambda name: name not in BY_NAME), ANY_VALUE)
    rows = st.lists(st.one_of(*known, strange), max_size=MAX_PARAMETERS, unique_by=lambda x: x[0])
    return rows.map(dict)


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["why"])
def test_values_are_rows_of_a_name_and_a_word(vector: dict[str, object]) -> None:
    pairs: list[list[str]] = vector["values"]  # type: ignore[assignment]
    rows = b"".join(
        name.encode().ljust(32, b"\0") + int(value).to_bytes(32, "big") for name, value in pairs
    )
    assert rows.hex() == vector["hex"]
    assert keccak(rows).hex() == vector["digest"]
    values = decode_parameters(rows)
    assert [[name, str(value)] for name, value in values.items()] == pairs
    assert digest_parameters(values).hex() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["refuse"], ids=lambda vector: vector["why"])
def test_other_bytes_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ParametersError) as refused:
        decode_parameters(bytes.fromhex(vector["hex"]))
    assert refused.value.rule == vector["rule"]


@pytest.mark.parametrize("vector", VECTORS["histories"], ids=lambda vector: vector["why"])
def test_what_is_in_force_follows_from_the_versions_alone(
    vector: dict[str, list[dict[str, object]]],
):
    versions = [
        Version(one["number"], one["since"], {name: int(value) for name, value in one["values"]})
        for one in vector["versions"]
    ]
    ruling = rule_on(in_force(versions, vector["began_at"]))
    assert ruling.version == vector["version"]
    assert [[name, str(value)] for name, value in ruling.values.items()] == vector["values"]
    assert [one.name for one in ruling.refusals] == vector["refused"]
    assert list(ruling.unknown) == vector["unknown"]


@given(any_values())
def test_one_set_of_values_has_one_form(values: dict[str, int]) -> None:
    data = encode_parameters(values)
    assert list(decode_parameters(data).items()) == list(values.items())


@given(st.binary(max_size=64 * 66))
def test_bytes_are_read_or_refused_and_what_is_read_is_written_the_same(data: bytes) -> None:
    try:
        values = decode_parameters(data)
    except ParametersError:
        return
    assert encode_parameters(values) == data


@given(st.lists(any_values(), max_size=8))
def test_no_history_of_votes_leaves_the_bounds(history: list[dict[str, int]]) -> None:
    versions = [Version(n, n, values) for n, values in enumerate(history, 1)]
    ruling = rule_on(versions)
    assert ruling.values.keys() == DEFAULTS.keys()
    for one in PARAMETERS:
        assert one.least <= ruling.values[one.name] <= one.most
    assert ruling.values[NODE_SHARE] + ruling.values[CREATOR_SHARE] <= WHOLE_BPS
    refused = {one.name: one for one in ruling.refusals}
    for name, value in (history[-1] if history else {}).items():
        if name not in BY_NAME:
            assert name in ruling.unknown
        elif name in refused:
            assert refused[name].kept == ruling.values[name] != value
        else:
            assert ruling.values[name] == value


@given(st.lists(any_values(), min_size=1, max_size=6), st.integers(0, 8))
def test_a_later_vote_changes_nothing_about_an_earlier_epoch(
    history: list[dict[str, int]], began_at: int
) -> None:
    versions = [Version(n, n, values) for n, values in enumerate(history, 1)]
    later = Version(len(history) + 1, 9, {NODE_SHARE: 3_000})
    assert rule_on(in_force([*versions, later], began_at)) == rule_on(in_force(versions, began_at))


def test_the_defaults_are_what_the_code_does() -> None:
    assert POLICY.node_bps == DEFAULTS[NODE_SHARE]
    assert POLICY.creator_bps == DEFAULTS[CREATOR_SHARE]
    assert DEFAULTS[LEAST_FEE] == MIN_SHARE_FEE
    assert DEFAULTS[MOST_LAMBDA] == WHOLE_EIGHTHS
    assert Pace().promise_s == DEFAULTS[PROMISE_S]
    vectors = hashlib.sha256((GOLDEN / "ladder.json").read_bytes()).digest()
    assert vectors == LADDER_1.to_bytes(32, "big"), "another rule has another digest"


def test_every_parameter_says_what_it_is_and_begins_within_its_bounds() -> None:
    assert len(BY_NAME) == len(PARAMETERS) <= MAX_PARAMETERS
    assert rule_on([Version(1, 1, DEFAULTS)]) == replace(UNGOVERNED, version=1)
    for one in PARAMETERS:
        assert one.least <= one.default <= one.most <= one.kind.most
        assert one.unit
        assert one.meaning


def test_a_change_is_read_as_people_write_it() -> None:
    assert read_change("shares.node=5_500") == (NODE_SHARE, 5_500)
    name, value = read_change(f"{ATTRIBUTION_RULE} = {show_value(ATTRIBUTION_RULE, LADDER_1)}")
    assert (name, value) == (ATTRIBUTION_RULE, LADDER_1)
    for text, rule in (
        ("shares.node", "name"),
        ("shares.nobody=1", "name"),
        ("shares.node=much", "value"),
        ("shares.node=10001", "value"),
        ("shares.node=-1", "value"),
    ):
        with pytest.raises(ParametersError) as refused:
            read_change(text)
        assert refused.value.rule == rule


def test_the_kinds_are_numbered_as_in_the_contract() -> None:
    assert [kind.name for kind in Kind] == ["COUNT", "BASIS_POINTS", "AMOUNT", "SECONDS", "DIGEST"]
