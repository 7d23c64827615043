"""Which runs of an answer stand word for word in whose document: what a reader is shown.

    told = explain(index, background, prompt_ids, answer_ids)
    told.spans         # [start, end) of the answer, where that stands, bits, bits known anyway
    told.drawn.bits    # what pay follows from (ladder.py, blend.py)

Spans are for reading and decide nothing: of several places where a run stands, the longest and then
the first registered is named, and bits of single tokens stand in no span. Knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .background import UNIFORM, Background
from .index import MAX_CONTEXT, Index
from .ladder import Drawn, log2, measure
from .suffixes import Nodes
from .tokens import Ints, Place

MIN_SPAN_TOKENS = 2
MAX_PLACES = 256  # of one run that are compared


@dataclass(frozen=True)
class Span:
    """A run [start, end) of the answer's tokens that stands at a place, whose giver owns it there.

    `bits` are his in the run, `known` what the background foretold of it anyway; in 1/65536.
    """

    start: int
    end: int
    place: Place
    bits: int
    known: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """Spans in the answer's order, none over another; and what the whole answer drew on.

    `known` are the bits of the whole answer that the background foretold anyway, in 1/65536, beyond
    a token of which nothing is known.
    """

    spans: tuple[Span, ...]
    drawn: Drawn
    known: int


def explain(
    index: Index,
    background: Background,
    prompt_ids: Sequence[int] | Ints,
    answer_ids: Sequence[int] | Ints,
) -> Explanation:
    """Measure an answer, and find where its runs stand."""
    drawn = measure(index, background, prompt_ids, answer_ids)
    known = np.maximum(log2(drawn.foretold) - log2(np.array([UNIFORM])), 0)
    ranks = index.tokens.ranks_of(np.asarray(answer_ids, dtype=np.int64))
    nodes = index.suffixes.narrow(ranks, 0, MAX_CONTEXT + 1)
    spans: list[Span] = []
    done = 0
    for at in np.flatnonzero(drawn.by_token.any(axis=1)).tolist():
        if at < done:
            continue
        position = _find(index, nodes, ranks, at)
        if position is None:
            continue
        start, end, first = _stretch(index, ranks, at, position, done)
        if end - start < MIN_SPAN_TOKENS:
            continue
        place = index.tokens.place_of(first)
        bits = int(drawn.by_token[start:end, place.contributor].sum())
        spans.append(Span(start, end, place, bits, int(known[start:end].sum())))
        done = end
    return Explanation(tuple(spans), drawn, int(known.sum()))


def _find(index: Index, nodes: Nodes, ranks: Ints, start: int) -> int | None:
    """Find where the longest run from ranks[start] on stands and counts: its first position."""
    for length in range(min(MAX_CONTEXT + 1, len(ranks) - start), 0, -1):
        lo = int(nodes.lo[start + length, length])
        hi = min(int(nodes.hi[start + length, length]), lo + MAX_PLACES)
        first = np.sort(index.suffixes.order[lo:hi].astype(np.int64)) - (length - 1)
        if len(first):
            runs = [_reach(index, ranks, start, position) for position in first.tolist()]
            return int(first[int(np.argmax(runs))])
    return None


def _reach(index: Index, ranks: Ints, at: int, position: int) -> int:
    """Count the tokens from ranks[at] on that stand at a position and after it."""
    text = index.suffixes.text[position : position + len(ranks) - at]
    alike = text == ranks[at : at + len(text)]
    return int(np.argmin(alike)) if not alike.all() else len(alike)


def _stretch(index: Index, ranks: Ints, at: int, position: int, done: int) -> tuple[int, int, int]:
    """Stretch a run both ways, not over what is done: its start, its end, its first position."""
    end = at + _reach(index, ranks, at, position)
    text = index.suffixes.text
    start = at
    while start > done and text[position - 1] == ranks[start - 1]:
        start -= 1
        position -= 1
    return start, end, position
