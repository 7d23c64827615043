"""Bits and standing weights become basis points that sum, and follow what was drawn."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.blend import BIT, blend, divide

PEOPLE = st.lists(
    st.tuples(st.integers(0, 786_432 * 8_192), st.integers(0, 1 << 31)), min_size=1, max_size=48
).filter(lambda people: any(weight for _, weight in people))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(PEOPLE, st.integers(0, 8))
def test_parts_sum_and_are_within_a_unit_of_the_exact_ones(
    people: list[tuple[int, int]], eighths: int
) -> None:
    bits, standing = zip(*people, strict=True)
    parts = blend(bits, standing, eighths)
    assert sum(parts) == 10_000
    weight = Fraction(eighths, 8) if sum(bits) >= 8 * BIT else 0
    for mine, stands, part in zip(bits, standing, parts, strict=True):
        drawn = Fraction(mine, sum(bits) or 1)
        exact = weight * drawn + (1 - weight) * Fraction(stands, sum(standing))
        assert abs(part - 10_000 * exact) < 1


def test_an_answer_below_eight_bits_drew_on_nobody() -> None:
    assert blend([8 * BIT - 1, 0], [1, 3], 8) == (2_500, 7_500)
    assert blend([8 * BIT, 0], [1, 3], 8) == (10_000, 0)
    assert blend([3 * BIT, 0], [1, 3], 8, none_bits=3) == (10_000, 0)


def test_no_bits_at_all_are_nobodys_even_where_none_is_enough() -> None:
    assert blend([0, 0], [1, 3], 8, none_bits=0) == (2_500, 7_500)


def test_of_equal_remainders_the_earlier_is_served_first() -> None:
    assert blend([0, 0, 0], [1, 1, 1], 8) == (3_334, 3_333, 3_333)
    assert divide(2, [1, 1, 1]) == [1, 1, 0]
    assert divide(5, [0, 0]) == []


@pytest.mark.parametrize(
    ("bits", "standing", "eighths"),
    [
        ([1], [1, 1], 0),
        ([1], [1], 9),
        ([1], [1], -1),
        ([-1], [1], 1),
        ([1], [-1], 1),
        ([1], [0], 8),
    ],
)
def test_what_cannot_be_divided_is_refused(
    bits: list[int], standing: list[int], eighths: int
) -> None:
    with pytest.raises(ValueError, match=r"bits|λ"):
        blend(bits, standing, eighths)
