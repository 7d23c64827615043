from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attestation.sequential import ONE_IN, STAKES, Evidence

CAP = 0.25
MEAN = 0.0005
"""About what the adapters of this repository were calibrated to."""


def add(evidence: Evidence, *scores: float, mean: float = MEAN) -> Evidence:
    for score in scores:
        evidence = evidence.after(score, CAP, mean, is_suspicious=False)
    return evidence


def answers_until_convicted(draw: object, most: int) -> int | None:
    assert callable(draw)
    evidence = Evidence()
    for number in range(1, most + 1):
        evidence = add(evidence, draw())
        if evidence.convicts():
            return number
    return None


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 10, allow_nan=False), max_size=60), st.floats(0, CAP * 0.99))
def test_capital_is_never_negative_nor_endless_and_is_kept_as_bytes(
    scores: list[float], mean: float
) -> None:
    evidence = add(Evidence(), *scores, mean=mean)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(evidence), type=Evidence)
    assert again == evidence
    assert evidence.answers == len(scores)
    assert len(evidence.capitals) == len(STAKES)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(1e-6, 0.99), st.lists(st.floats(0, CAP), max_size=20))
def test_honest_play_wins_nothing_on_average(
    part: float, mean_part: float, before: list[float]
) -> None:
    """Of all laws on [0, cap] with this mean, two points suffice: the capital is linear in x."""
    mean = mean_part * CAP
    low, high = part * mean, CAP
    chance = (mean - low) / (high - low)
    start = add(Evidence(), *before, mean=mean)
    held = sum(max(capital, 1.0) for capital in start.capitals) / len(STAKES)
    wins, loses = (add(start, score, mean=mean).strength for score in (high, low))
    assert chance * wins + (1 - chance) * loses <= held * (1 + 1e-9)


def test_a_worse_answer_never_lowers_the_evidence() -> None:
    rising = [add(Evidence(), score).strength for score in (0.0, 0.0001, 0.001, 0.01, 0.1, 0.25)]
    assert rising == sorted(rising)


def test_junk_is_convicted_by_few_answers_and_no_sooner() -> None:
    assert not add(Evidence(), CAP).convicts()
    assert answers_until_convicted(lambda: CAP, 10) == 3


def test_a_thousand_good_answers_buy_no_credit() -> None:
    trusted = add(Evidence(), *[0.0] * 1000)
    assert add(trusted, *[CAP] * 3).convicts()


def test_honest_nodes_are_convicted_more_seldom_than_promised() -> None:
    """As unlucky as they may be: their whole mean lies in rare, worst answers."""
    nodes, answers, one_in = 400, 100, 2_000
    dice = random.Random(7)
    convicted = 0
    for _ in range(nodes):
        evidence = Evidence()
        for _ in range(answers):
            evidence = add(evidence, CAP if dice.random() < MEAN / CAP else 0.0)
            if evidence.convicts(one_in):
                convicted += 1
                break
    assert convicted <= nodes * answers / one_in  # 5 %; measured: see below
    assert ONE_IN == 1_000_000


def test_what_misses_twice_as_much_as_allowed_is_found_in_the_end() -> None:
    dice = random.Random(11)
    found = answers_until_convicted(lambda: dice.uniform(0, 4 * MEAN), 2_000)
    assert found is not None
    assert found < 200
