"""What is said of an adapter, on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.training.judging import LONG_RUN, Beside, in_long_runs, runs_in, verdict_of


def beside(base: float, adapter: float) -> Beside:
    return Beside("x", base, adapter, 100)


@pytest.mark.parametrize(
    ("held_out", "learnt", "is_good", "said"),
    [
        (beside(2.0, 1.8), beside(2.0, 1.5), True, "10.0% less than the base"),
        (beside(2.0, 1.97), beside(2.0, 1.0), False, "by heart"),
        (beside(2.0, 2.1), beside(2.0, 2.0), False, "5.0% more than the base, not 2 % less"),
        (beside(2.0, 1.97), beside(2.0, 1.98), False, "it hardly learnt"),
        (None, beside(2.0, 1.0), False, "nothing was held out"),
    ],
)
def test_the_verdict_is_red_unless_what_was_held_out_gains(
    held_out: Beside | None, learnt: Beside, is_good: bool, said: str
) -> None:
    found = verdict_of(held_out, learnt, beside(3.0, 3.0), 0.0)
    assert found[0] is is_good
    assert said in found[1]


def test_what_was_forgotten_and_what_is_by_heart_are_said() -> None:
    _, said = verdict_of(beside(2.0, 1.0), beside(2.0, 1.0), beside(2.0, 3.0), 0.25)
    assert "50% more of what the base says by itself" in said
    assert "25% of its words" in said


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=12))
@settings(derandomize=True)
def test_runs_are_those_that_a_slow_search_finds(text: list[int], answer: list[int]) -> None:
    found = runs_in(answer, np.array(text, np.int32))
    for place in range(len(answer)):
        longest = max(
            size
            for size in range(place + 2)
            if any(
                text[at : at + size] == answer[place + 1 - size : place + 1]
                for at in range(len(text) - size + 1)
            )
        )
        assert found[place] == longest


def test_tokens_in_long_runs_are_counted_once() -> None:
    text = np.arange(100, dtype=np.int32)
    answer = [*range(20, 20 + LONG_RUN + 4), 7, 8, 9]
    runs = runs_in(answer, text)
    assert runs.max() == LONG_RUN + 4
    assert in_long_runs(runs) == LONG_RUN + 4
