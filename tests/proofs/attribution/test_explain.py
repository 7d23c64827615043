"""Spans of an answer stand where they are said to stand, and their bits are the rule's."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.blend import BIT
from proofs.attribution.explain import MIN_SPAN_TOKENS, Explanation, explain
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import Place

from .world import background_of, index_of, make_world

NOTHING = background_of()
POEM = list(range(100, 140))
LAW = list(range(200, 260))
INDEX = index_of(3, [(1, [[1, 2, 3], POEM]), (0, [LAW]), (2, [POEM, [*LAW[:30], *POEM[:5]]])])


def words(index: Index, place: Place, size: int) -> list[int]:
    """The run that stands at a place."""
    before = sum(documents for _, documents in index.tokens.contributions[: place.contribution])
    document = index.tokens.document(before + place.document).tolist()
    return document[place.offset : place.offset + size]


def check(index: Index, answer: list[int], told: Explanation) -> None:
    done = 0
    for span in told.spans:
        assert done <= span.start < span.end <= len(answer)
        assert span.end - span.start >= MIN_SPAN_TOKENS
        done = span.end
        size = span.end - span.start
        assert words(index, span.place, size) == answer[span.start : span.end]
        column = told.drawn.by_token[span.start : span.end, span.place.contributor]
        assert span.bits == column.sum()
        assert index.tokens.contributions[span.place.contribution][0] == span.place.contributor


def test_each_run_is_linked_to_its_first_document() -> None:
    answer = [7, *POEM[5:15], 8, 9, *LAW[20:40]]
    told = explain(INDEX, NOTHING, [1, 2], answer)
    check(INDEX, answer, told)
    assert [(span.start, span.end, span.place) for span in told.spans] == [
        (1, 11, Place(1, 0, 1, 5)),
        (13, 33, Place(0, 1, 0, 20)),
    ]
    assert all(span.bits > 50 * BIT for span in told.spans)
    assert told.drawn.bits == measure(INDEX, NOTHING, [1, 2], answer).bits


def test_a_run_longer_than_any_context_is_one_span() -> None:
    told = explain(INDEX, NOTHING, [], LAW)
    assert [(span.start, span.end) for span in told.spans] == [(0, len(LAW))]


def test_a_run_that_goes_on_from_the_prompt_begins_with_the_answer() -> None:
    told = explain(INDEX, NOTHING, POEM[:10], POEM[10:20])
    assert [(span.start, span.end, span.place.offset) for span in told.spans] == [(0, 10, 10)]


def test_what_the_background_knows_is_told_beside_it() -> None:
    common = background_of(*[POEM[:20]] * 50)
    told = explain(INDEX, common, POEM[:2], POEM[2:40])
    check(INDEX, POEM[2:40], told)
    alone = explain(INDEX, NOTHING, POEM[:2], POEM[2:40])
    assert alone.known == 0
    assert told.known > 18 * 10 * BIT
    assert told.known >= sum(span.known for span in told.spans) > 0
    assert sum(told.drawn.bits) < sum(alone.drawn.bits)


def test_an_answer_of_words_that_nobody_gave_has_no_spans() -> None:
    told = explain(INDEX, NOTHING, POEM[:3], [900, 901, 902])
    assert told.spans == ()
    assert told.drawn.bits == (0, 0, 0)
    assert explain(INDEX, NOTHING, [], []).spans == ()


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_spans_stand_where_they_are_said_to_stand(seed: int) -> None:
    world = make_world(seed, num_questions=4)
    index, background = world.index(), world.background()
    for prompt, answer in world.questions:
        check(index, answer, explain(index, background, prompt, answer))


def test_a_long_answer_of_common_words_is_explained_soon() -> None:
    chance = random.Random(2)
    documents = [[chance.randrange(4) for _ in range(50)] for _ in range(200)]
    index = index_of(2, [(0, documents[:100]), (1, documents[100:])])
    answer = [chance.randrange(4) for _ in range(1_000)]
    check(index, answer, explain(index, NOTHING, [], answer))
