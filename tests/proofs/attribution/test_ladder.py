"""ladder-1 is what a naive checker counts; nobody gains by copying, splitting or coming late."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution import suffixes
from proofs.attribution.blend import BIT, blend
from proofs.attribution.ladder import log2, log2_table, measure
from tests.golden import other

from .other_ladder import TABLE, Counts, bits, foretold
from .other_ladder import log2 as other_log2
from .world import background_of, index_of, make_world

VECTOR: dict[str, Any] = other.load("ladder")
NOTHING = background_of()


def agree(seed: int, num_questions: int) -> None:
    world = make_world(seed, num_questions)
    index, background = world.index(), world.background()
    text, common = world.counts()
    for prompt, answer in world.questions:
        drawn = measure(index, background, prompt, answer)
        assert list(drawn.bits) == bits(text, common, world.people, prompt, answer), seed


@pytest.mark.parametrize("seed", range(30))
def test_the_rule_is_what_the_naive_checker_counts(seed: int) -> None:
    agree(seed, num_questions=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_rule_is_what_the_naive_checker_counts_of_ten_thousand_answers() -> None:
    for seed in range(1_000, 1_250):
        agree(seed, num_questions=40)


def test_common_nodes_are_counted_beforehand_as_they_would_be_on_the_spot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(5)
    documents = [[chance.randrange(3) for _ in range(40)] for _ in range(60)]
    gifts = [(number % 3, documents[10 * number : 10 * number + 10]) for number in range(6)]
    index = index_of(3, gifts)
    assert len(index.suffixes.common.keys) > 10
    answer = [chance.randrange(3) for _ in range(64)]
    before = measure(index, NOTHING, [], answer)
    monkeypatch.setattr(suffixes, "MAX_COUNTED", len(index.tokens.ranks))
    on_the_spot = measure(index, NOTHING, [], answer)
    assert before.bits == on_the_spot.bits
    assert sum(before.bits) > 0


def test_the_vectors_are_what_the_naive_checker_counts() -> None:
    text = Counts(
        [
            (one["contributor"], document)
            for one in VECTOR["contributions"]
            for document in one["documents"]
        ],
        9,
    )
    common = Counts([(None, document) for document in VECTOR["background"]], 5)
    table = b"".join(entry.to_bytes(4, "little") for entry in TABLE)
    assert hashlib.sha256(table).hexdigest() == VECTOR["table_digest"]
    for vector in VECTOR["answers"]:
        ids = vector["prompt"] + vector["answer"]
        assert bits(text, common, 3, vector["prompt"], vector["answer"]) == vector["bits"]
        places = range(len(vector["prompt"]), len(ids))
        assert [foretold(common, ids, at) for at in places] == vector["foretold"]
        parts = other_parts(vector["bits"], VECTOR["standing"], VECTOR["lambda_eighths"])
        assert parts == vector["parts"]
    for vector in VECTOR["blends"]:
        parts = other_parts(vector["bits"], vector["standing"], vector["lambda_eighths"])
        assert parts == vector["parts"]


def other_parts(drawn: list[int], standing: list[int], eighths: int) -> list[int]:
    """The blend, from the page."""
    if sum(drawn) < 8 * BIT:
        return other.divide(10_000, standing)
    weights = [
        eighths * mine * sum(standing) + (8 - eighths) * stands * sum(drawn)
        for mine, stands in zip(drawn, standing, strict=True)
    ]
    return other.divide(10_000, weights)


def test_the_table_is_the_checkers_and_logarithms_never_fall() -> None:
    assert log2_table().tolist() == TABLE
    numbers = np.arange(1, 1 << 20, dtype=np.int64)
    logarithms = log2(numbers)
    assert (np.diff(logarithms) >= 0).all()
    some = numbers[::997]
    assert log2(some).tolist() == [other_log2(int(number)) for number in some]
    assert int(log2(np.array([1 << 20]))[0]) == 20 * BIT


TEXT = list(range(100, 160))


def test_a_verbatim_copy_earns_nothing_and_takes_nothing() -> None:
    alone = measure(index_of(2, [(0, [TEXT])]), NOTHING, TEXT[:4], TEXT[4:30])
    copied = measure(
        index_of(2, [(0, [TEXT]), (1, [TEXT, TEXT[10:40]])]), NOTHING, TEXT[:4], TEXT[4:30]
    )
    assert alone.bits[0] > 200 * BIT
    assert copied.bits == alone.bits == (alone.bits[0], 0)
    assert blend(copied.bits, [1, 1], 8) == blend(alone.bits, [1, 1], 8) == (10_000, 0)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_whoever_comes_later_with_what_is_there_moves_nobody_by_a_unit(seed: int) -> None:
    world = make_world(seed, num_questions=4)
    chance = random.Random(seed)
    later = []
    for copies in range(3):  # whole ones, excerpts, and runs too short for a window
        for _, documents in world.contributions:
            for document in documents:
                start = chance.randrange(len(document))
                size = chance.randint(1, 7) if copies == 2 else len(document)
                later.append(document[start : start + size] if copies else document)
    others = [(chance.randrange(world.people + 2), [one]) for one in later]
    index, background = world.index(), world.background()
    copied = index_of(world.people + 2, [*world.contributions, *others])
    assert copied.owned_tokens() == (*index.owned_tokens(), 0, 0)
    for prompt, answer in world.questions:
        before = measure(index, background, prompt, answer).by_token
        after = measure(copied, background, prompt, answer).by_token
        assert (after[:, : world.people] == before).all()
        assert not after[:, world.people :].any()


def test_whoever_repeats_himself_draws_what_he_drew() -> None:
    once = index_of(2, [(0, [TEXT]), (1, [[*TEXT[:6], *range(200, 220)]])])
    often = index_of(2, [(0, [TEXT] * 9), (1, [[*TEXT[:6], *range(200, 220)]])])
    asked = (TEXT[:4], [*TEXT[4:20], *range(200, 205)])
    assert measure(often, NOTHING, *asked).bits == measure(once, NOTHING, *asked).bits


def test_the_order_of_registration_decides() -> None:
    first = measure(index_of(2, [(0, [TEXT]), (1, [TEXT])]), NOTHING, [], TEXT[:20])
    second = measure(index_of(2, [(1, [TEXT]), (0, [TEXT])]), NOTHING, [], TEXT[:20])
    assert first.bits[0] > 8 * BIT
    assert first.bits == second.bits[::-1]
    assert first.bits[1] == 0


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_one_person_as_five_draws_what_he_drew_less_what_rounding_takes(seed: int) -> None:
    world = make_world(seed, num_questions=4)
    parts = 5
    split = []
    for giver, documents in world.contributions:
        for number, document in enumerate(documents):
            # Only contributor 0 splits; the others move up.
            split.append((number % parts if giver == 0 else giver + parts - 1, [document]))
    index, background = world.index(), world.background()
    many = index_of(world.people + parts - 1, split)
    owned = many.owned_tokens()
    assert sum(owned[:parts]) == index.owned_tokens()[0]
    assert owned[parts:] == index.owned_tokens()[1:]
    for prompt, answer in world.questions:
        whole = measure(index, background, prompt, answer).by_token
        pieces = measure(many, background, prompt, answer).by_token
        # Nobody else gains or loses a unit, and the one in parts never gains.
        assert (pieces[:, parts:] == whole[:, 1:]).all()
        assert (pieces[:, :parts].sum(axis=1) <= whole[:, 0]).all()


def test_one_person_as_five_loses_to_rounding_less_than_two_parts_in_a_hundred() -> None:
    chance = random.Random(7)
    words = [[chance.randrange(300) for _ in range(4)] for _ in range(60)]

    def write(size: int) -> list[int]:
        return [token for _ in range(size) for token in chance.choice(words)]

    documents = [write(20) for _ in range(25)]
    one = index_of(1, [(0, documents)])
    five = index_of(5, [(place % 5, [ids]) for place, ids in enumerate(documents)])
    answer = write(50)
    whole = measure(one, NOTHING, [], answer).bits[0]
    pieces = sum(measure(five, NOTHING, [], answer).bits)
    assert whole > 500 * BIT
    assert 0.98 * whole <= pieces <= whole


def test_common_text_is_no_gain() -> None:
    common = background_of(TEXT, TEXT, TEXT)
    index = index_of(1, [(0, [TEXT])])
    assert sum(measure(index, common, TEXT[:4], TEXT[4:40]).bits) < 8 * BIT
    assert sum(measure(index, NOTHING, TEXT[:4], TEXT[4:40]).bits) > 100 * BIT


def test_no_context_crosses_the_border_of_a_document() -> None:
    index = index_of(1, [(0, [TEXT[:30], TEXT[30:]])])
    across = measure(index, NOTHING, TEXT[20:30], TEXT[30:31])
    assert across.bits == (0,)


def test_documents_without_a_window_are_nobodys() -> None:
    index = index_of(1, [(0, [TEXT[start : start + 7] for start in range(0, 56, 7)])])
    assert index.owned_tokens() == (0,)
    assert measure(index, NOTHING, [], TEXT).bits == (0,)
    assert index_of(1, [(0, [TEXT[:8]])]).owned_tokens() == (8,)


def test_an_edited_copy_owns_the_windows_around_its_edits() -> None:
    edited = [*TEXT[:30], 7, *TEXT[31:]]
    index = index_of(2, [(0, [TEXT]), (1, [edited])])
    assert index.owned_tokens() == (60, 15)


def test_the_longest_answer_stays_within_its_bound() -> None:
    chance = random.Random(1)
    document = [chance.randrange(40_000) for _ in range(8_192)]
    index = index_of(2, [(1, [document])])
    drawn = measure(index, NOTHING, [], document)
    assert drawn.by_token.shape == (8_192, 2)
    assert int(drawn.by_token.max()) <= 12 * BIT
    assert 8_191 * 11 * BIT < drawn.bits[1] <= 8_192 * 12 * BIT


def test_an_answer_of_no_tokens_draws_on_nobody() -> None:
    assert measure(index_of(3, [(0, [TEXT])]), NOTHING, [1, 2], []).bits == (0, 0, 0)


def test_a_question_of_ids_that_no_text_holds_draws_on_nobody() -> None:
    index = index_of(1, [(0, [TEXT])])
    assert measure(index, NOTHING, [1 << 40], [-5, 0, 1 << 40]).bits == (0,)
