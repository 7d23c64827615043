"""r, LDS, λ and weights on data whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.influence.fitting import Evidence, fit, fit_lambda, standing_weights
from factory.influence.measures import (
    correlation,
    estimate,
    estimate_pooled,
    folds,
    lds_each,
    r_each,
    ranks,
)
from factory.influence.plan import halves, plan, second_seeds
from factory.influence.recipe import Recipe

BIT = 1 << 16


def drawn(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def evidence(effects: np.ndarray, bits: np.ndarray, owned: np.ndarray | None = None) -> Evidence:
    """Halves whose losses are exactly the sum of who is missing."""
    draw = drawn(9)
    people = effects.shape[1]
    stayed = np.array(
        [
            draw.permutation([True] * (people // 2) + [False] * (people - people // 2))
            for _ in range(9)
        ]
    )
    losses = (~stayed).astype(float) @ effects.T
    return Evidence(
        effects=effects,
        bits=bits,
        stayed=stayed,
        half_losses=losses,
        owned=np.ones(people) if owned is None else owned,
        none_bits=8,
        seed=7,
    )


def test_correlation_knows_straight_lines_and_flat_ones() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert correlation(x, 3 * x + 1) == pytest.approx(1)
    assert correlation(x, -x) == pytest.approx(-1)
    assert correlation(x, np.ones(3)) == 0
    assert correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)


def test_equal_values_share_a_rank() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_lds_is_one_where_effects_add_up_and_minus_one_where_they_are_paid_backwards() -> None:
    effects = drawn().normal(size=(20, 6))
    found = evidence(effects, np.zeros((20, 6), np.int64))
    assert lds_each(effects, found.stayed, found.half_losses).tolist() == pytest.approx([1] * 20)
    assert lds_each(-effects, found.stayed, found.half_losses).tolist() == pytest.approx([-1] * 20)


def test_an_interval_holds_the_mean_and_comes_out_the_same_again() -> None:
    each = drawn().normal(0.4, 0.3, 50)
    found = estimate(each, 3)
    assert found.mean == pytest.approx(each.mean())
    assert found.low < found.mean < found.high
    assert found == estimate(each, 3)
    # A bootstrap interval of a mean is about 1.96 standard errors to each side.
    assert found.high - found.low == pytest.approx(2 * 1.96 * each.std() / 50**0.5, rel=0.1)


def test_the_pooled_r_sees_scale_that_r_of_each_answer_does_not() -> None:
    effects = np.array([[1.0, 0.0], [100.0, 0.0], [1.0, 0.0]])
    parts = np.array([[100.0, 0.0], [1.0, 0.0], [100.0, 0.0]])
    assert r_each(parts, effects).tolist() == pytest.approx([1, 1, 1])
    assert estimate_pooled(parts, effects, 1).mean < 0.5


@settings(derandomize=True, max_examples=20)
@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 99))
def test_folds_hold_each_answer_once(answers: int, count: int, seed: int) -> None:
    found = folds(answers, count, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(answers))
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= 1


def test_bits_that_are_the_effects_get_all_of_lambda_and_a_perfect_r() -> None:
    # Standing weights are the same for everybody, so only the answer's own bits can tell.
    effects = drawn().permuted(np.tile(np.array([4.0, 0, 0, 0, 0, 0]), (60, 1)), axis=1)
    bits = (effects * 10 * BIT).astype(np.int64)
    found = fit(evidence(effects, bits))
    assert found.lambda_eighths >= 7
    assert found.r.mean == pytest.approx(1, abs=0.02)
    assert found.lds is not None
    assert found.lds.mean > 0.7


def test_bits_that_mean_nothing_get_nothing_of_lambda() -> None:
    draw = drawn()
    effects = np.tile(np.array([5.0, 3, 2, 1, 0.5, 0]), (60, 1)) + draw.normal(0, 0.1, (60, 6))
    bits = draw.integers(0, 100, (60, 6)) * BIT
    found = fit(evidence(effects, bits))
    assert found.lambda_eighths <= 1
    assert found.r.mean > 0.95


def test_what_is_printed_was_measured_on_answers_that_nothing_was_fitted_on() -> None:
    # Effects without any order: fitted on themselves, weights follow them a little; on unseen
    # answers they can't.
    effects = drawn(4).normal(size=(40, 6))
    found = evidence(effects, np.zeros((40, 6), np.int64))
    own = standing_weights(effects, found.owned)
    fitted_on_itself = r_each(np.tile(np.array(own, float), (40, 1)), effects).mean()
    assert fitted_on_itself > 0.05
    assert fit(found).r.mean < fitted_on_itself - 0.05


def test_standing_weights_pay_nobody_who_harms_and_nobody_who_owns_nothing() -> None:
    effects = np.array([[3.0, 1.0, -2.0, 4.0]] * 5)
    weights = standing_weights(effects, np.array([1.0, 1.0, 1.0, 0.0]))
    assert weights == (7500, 2500, 0, 0)
    assert standing_weights(-np.abs(effects), np.array([1.0, 1.0, 0.0, 0.0])) == (5000, 5000, 0, 0)


def test_of_equally_good_lambdas_the_smaller_is_taken() -> None:
    effects = np.tile(np.array([2.0, 1.0, 1.0, 0.0]), (40, 1))
    found = evidence(effects, np.zeros((40, 4), np.int64))
    assert fit_lambda(found, np.arange(40), (5000, 2500, 2500, 0)) == 0


def test_a_plan_leaves_out_each_person_once_then_halves_then_some_again() -> None:
    recipe = Recipe(base="x", contributors=tuple("abcdefg"), halves=12, second_seed=2)
    found = plan(recipe)
    assert [one.name for one in found[:2]] == ["whole", "without-00"]
    assert {one.left_out for one in found[1:8]} == {frozenset([who]) for who in range(7)}
    assert len(set(halves(recipe))) == 12
    assert all(len(out) == 3 for out in halves(recipe))
    again = [one for one in found if one.second_seed]
    assert [one.left_out for one in again] == [
        frozenset(),
        *(frozenset([who]) for who in second_seeds(recipe)),
    ]
    assert len({one.name for one in found}) == len(found) == 1 + 7 + 12 + 3


def test_few_people_have_few_halves() -> None:
    assert len(halves(Recipe(base="x", contributors=("a", "b"), second_seed=0))) == 2
