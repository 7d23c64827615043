"""Guesses what follows from what has been said: the text after the last occurrence of the newest
words (prompt lookup).

Pure; knows no model. A guess costs rows of a step and never changes the text: the model computes
each guessed place anyway, and the first wrong one is dropped with what follows it.
"""

from __future__ import annotations

SIZES = (4, 3, 2)
"""Tokens that must agree, longest first."""


class Proposer:
    """Follows one growing list of tokens; looking up costs the same however long it is."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._seen = 0

    def propose(self, tokens: list[int], count: int) -> list[int]:
        """Return at most `count` tokens that may follow `tokens`; none when its end is new."""
        self._index(tokens)
        for size in SIZES:
            at = self._ends.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if at is not None:
                return tokens[at : at + count]
        return []

    def _index(self, tokens: list[int]) -> None:
        """Remember where each run of tokens last ended, short of the end of `tokens`: nothing
        follows that.
        """
        for end in range(self._seen, len(tokens)):
            for size in SIZES:
                if end >= size:
                    self._ends[tuple(tokens[end - size : end])] = end
        self._seen = len(tokens)
