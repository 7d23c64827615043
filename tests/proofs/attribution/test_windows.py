"""A token counts where a window that holds it stands for the first time, whatever windows' numbers
are.
"""

from __future__ import annotations

import numpy as np
import pytest

from proofs.attribution import windows
from proofs.attribution.slices import tokens_since_end
from proofs.attribution.windows import only_first

from .world import make_world

WINDOW = 8


def by_hand(text: list[int]) -> list[int]:
    """The text with an end mark in the place of each token that does not count."""
    known: set[tuple[int, ...]] = set()
    counts = [False] * len(text)
    for at in range(len(text) - WINDOW + 1):
        window = tuple(text[at : at + WINDOW])
        if 0 not in window and window not in known:
            known.add(window)
            counts[at : at + WINDOW] = [True] * WINDOW
    return [token if does else 0 for token, does in zip(text, counts, strict=True)]


@pytest.mark.parametrize("factor", [int(windows._FACTOR), 0, 1 << 60, 1 << 37])
@pytest.mark.parametrize("seed", [1, 2, 3, 5, 8])
def test_what_counts_is_what_a_search_by_hand_finds(
    seed: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_FACTOR", np.uint64(factor))
    row = make_world(seed, num_questions=0).index().tokens.row
    room = 64 // row.itemsize
    for width in (2, 4):
        wide = np.concatenate([np.ones(64 // width), row[room:]]).astype(f"<u{width}")
        found = only_first(wide, WINDOW)
        assert found[64 // width :].tolist() == by_hand(row[room:].tolist())


def test_a_text_that_counts_wholly_is_not_copied() -> None:
    row = np.array([7] * 32 + [0, *range(1, 30), 0], dtype="<u2")
    assert only_first(row, WINDOW) is row


def test_tokens_are_counted_from_the_last_end_mark() -> None:
    text = np.array([0, 5, 6, 0, 0, *[7] * 12, 0, 3], dtype="<u2")
    assert tokens_since_end(text, 9).tolist() == [0, 1, 2, 0, 0, *range(1, 10), 9, 9, 9, 0, 1]
