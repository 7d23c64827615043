"""ladder-1 once more, from docs/protocols/attribution.md alone: naive counting in plain Python, no
code of ours and no package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext

Gram = tuple[int, ...]
END = -1


def table() -> list[int]:
    """The 4,097 logarithms, by another road: natural ones of 40 digits."""
    with localcontext() as context:
        context.prec = 40
        ratio = 65536 / Decimal(2).ln()
        exact = [(1 + Decimal(step) / 4096).ln() * ratio for step in range(4097)]
        return [int(one.quantize(Decimal(1), rounding=ROUND_HALF_UP)) for one in exact]


TABLE = table()


def log2(number: int) -> int:
    """In 1/65536, by the table."""
    exponent = 0
    while 2 << exponent <= number:
        exponent += 1
    step = (number * 8192 // 2**exponent + 1) // 2 - 4096
    return exponent * 65536 + TABLE[step]


class Counts:
    """How often each run of tokens that count occurs, whose it is, and what follows it."""

    def __init__(self, documents: Iterable[tuple[int | None, Sequence[int]]], longest: int) -> None:
        self.number: dict[Gram, int] = defaultdict(int)
        self.owned: dict[tuple[Gram, int], int] = defaultdict(int)
        self.after: dict[Gram, set[int]] = defaultdict(set)
        for giver, row in counting(documents):
            for at in range(len(row)):
                for length in range(min(at, longest) + 1):
                    before = tuple(row[at - length : at])
                    self.after[before].add(row[at])
                    self.number[before] += 1  # as a context
                    if giver is not None:
                        self.owned[(*before, row[at]), giver] += 1


def counting(
    documents: Iterable[tuple[int | None, Sequence[int]]],
) -> Iterator[tuple[int | None, list[int]]]:
    """What counts of each document, piece by piece, an end mark after each piece; of a background,
    whose giver is None, all.
    """
    known: set[Gram] = set()
    for giver, document in documents:
        counts = [giver is None] * len(document)
        for at in range(len(document) - 7):
            window = tuple(document[at : at + 8])
            if window not in known:
                known.add(window)
                counts[at : at + 8] = [True] * 8
        piece: list[int] = []
        for token, does in zip([*document, END], [*counts, False], strict=True):
            if does:
                piece.append(token)
            elif piece:
                yield giver, [*piece, END]
                piece = []


def foretold(background: Counts, ids: Sequence[int], at: int) -> int:
    """What the background makes of a token, in 1/2^20."""
    likely = 16
    for length in range(min(at, 4) + 1):
        context = tuple(ids[at - length : at])
        seen = background.number.get(context, 0)
        if seen:
            here = background.number.get((*context, ids[at]), 0)
            k = len(background.after[context])
            likely = (here * 2**20 + k * likely) // (seen + k)
    return max(likely, 1)


def bits(
    text: Counts, background: Counts, people: int, prompt: Sequence[int], answer: Sequence[int]
) -> list[int]:
    """Each contributor's bits of an answer, in 1/65536."""
    ids = [*prompt, *answer]
    drawn = [0] * people
    for at in range(len(prompt), len(ids)):
        base = likely = foretold(background, ids, at)
        mine = [0] * people
        for length in range(1, min(at, 8) + 1):
            context = tuple(ids[at - length : at])
            seen = text.number.get(context, 0)
            if not seen:
                break
            run = (*context, ids[at])
            k = len(text.after[context])
            likely = (text.number.get(run, 0) * 2**20 + k * likely) // (seen + k)
            for one in range(people):
                owned = text.owned.get((run, one), 0)
                mine[one] = (owned * 2**20 + k * mine[one]) // (seen + k)
        if likely > base:
            gain = min(log2(likely) - log2(base), 12 * 65536)
            drawn = [total + gain * part // likely for total, part in zip(drawn, mine, strict=True)]
    return drawn
