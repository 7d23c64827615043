"""Contexts are found alike whatever a rank's width, and whatever stands before the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from proofs.attribution.index import MAX_CONTEXT, Index
from proofs.attribution.ladder import measure
from proofs.attribution.runs import look_back
from proofs.attribution.tokens import ALIGNMENT_BYTES, Tokens

from .world import background_of, index_of, make_world

NOTHING = background_of()


def with_row(tokens: Tokens, width: int, before: int) -> Tokens:
    """The same text in ranks of so many bytes, and that rank all over the room before it."""
    room = [before] * (ALIGNMENT_BYTES // width)
    return replace(tokens, row=np.array([*room, *tokens.ranks.tolist()], dtype=f"<u{width}"))


@pytest.mark.parametrize(("width", "before"), [(2, 0xFFFF), (2, 1), (4, 0), (4, 2)])
@pytest.mark.parametrize("seed", [1, 3, 4, 8])
def test_neither_a_ranks_width_nor_what_stands_before_the_text_tells(
    seed: int, width: int, before: int
) -> None:
    world = make_world(seed, num_questions=12)
    index = world.index()
    other = Index.build(with_row(index.tokens, width, before))
    for prompt, answer in world.questions:
        expected = measure(index, NOTHING, prompt, answer).bits
        assert measure(other, NOTHING, prompt, answer).bits == expected


@pytest.mark.parametrize("width", [2, 4])
def test_a_context_ends_where_a_search_by_hand_finds_it(width: int) -> None:
    world = make_world(12, num_questions=8)
    tokens = with_row(world.index().tokens, width, before=1)
    found = Index.build(tokens).suffixes
    text = found.text.tolist()
    for prompt, answer in world.questions:
        ranks = tokens.ranks_of([*prompt, *answer, 1 << 30, *answer])
        nodes = found.narrow(ranks, len(prompt), MAX_CONTEXT + 1)
        for place, at in enumerate(range(len(prompt), len(ranks) + 1)):
            for length in range(1, MAX_CONTEXT + 2):
                wanted = ranks[max(at - length, 0) : at].tolist()
                ends = {
                    end
                    for end in range(length - 1, len(text))
                    if text[end - length + 1 : end + 1] == wanted
                }
                lo, hi = int(nodes.lo[place, length]), int(nodes.hi[place, length])
                assert set(found.order[lo:hi].tolist()) == ends


def test_the_highest_rank_of_two_bytes_is_told_from_an_id_that_no_text_holds() -> None:
    ids = list(range(0xFFFF))
    index = index_of(1, [(0, [ids])])
    assert index.tokens.row.itemsize == 2
    held = measure(index, NOTHING, ids[-12:-4], ids[-4:])
    strange = measure(index, NOTHING, ids[-12:-4], [1 << 20] * 4)
    assert held.bits[0] > 4 * 11 << 16
    assert strange.bits == (0,)


def test_a_run_has_the_last_token_highest() -> None:
    row = np.array([9, 9, 9, 9, 0, 1, 2, 3, 4], dtype="<u2")
    runs = look_back(row, 4)
    assert [f"{run:016x}" for run in runs[1:].tolist()] == [
        "0001000000090009",
        "0002000100000009",
        "0003000200010000",
        "0004000300020001",
    ]
    assert np.shares_memory(runs, row)
