"""Is it running text? Limits after Gopher's and C4's (Rae et al. 2021, table A1), and repetition.

Decides by counts alone; knows English's small words, and those of no other language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules

MIN_WORD_CHARS = 3
MAX_WORD_CHARS = 10
MIN_LETTERS_BPS = 7_000
"""Words with a letter. Gopher has 80 %, which every second recipe with its numbers misses."""
MAX_BULLETS_BPS = 9_000
MAX_ELLIPSES_BPS = 3_000
MIN_STOP_WORDS = 2
MAX_REPEATED_BPS = 3_000
MIN_REPEATED_CHARS = 12
"""A shorter line may come again: a name before each speech, a heading."""
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})

_BULLETS = ("-", "*", "•", "\u2013", "‣", "·")
_ELLIPSES = ("…", "...")


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Judge each document by itself."""
    return [
        find(code, place, detail)
        for place, document in enumerate(documents)
        for code, detail in _judge(document, rules)
    ]


def _judge(document: Looked, rules: Rules) -> Iterator[tuple[str, str]]:
    num_words = len(document.words)
    if num_words < rules.min_words:
        yield "too-short", f"{num_words} words; the datanet asks for {rules.min_words}"
        return
    if not num_words:
        return
    yield from _of_words(document)
    yield from _of_lines(document.text)


def _of_words(document: Looked) -> Iterator[tuple[str, str]]:
    pieces = document.text.split()
    mean = sum(map(len, document.words)) / len(document.words)
    # Scripts without spaces have one character for a word, so only long words tell there.
    is_spaced = len(document.words) < 3 * len(pieces)
    if mean > MAX_WORD_CHARS or (is_spaced and mean < MIN_WORD_CHARS):
        yield "words", f"the mean word has {mean:.1f} letters"
    worded = [piece for piece in pieces if any(map(str.isalnum, piece))]
    num_letters = sum(any(map(str.isalpha, piece)) for piece in worded)
    if num_letters * 10_000 < len(worded) * MIN_LETTERS_BPS:
        yield "letters", f"{num_letters} of {len(worded)} words have a letter"


def _of_lines(text: str) -> Iterator[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bullets = sum(line.startswith(_BULLETS) for line in lines)
    if len(lines) > 3 and bullets * 10_000 > len(lines) * MAX_BULLETS_BPS:
        yield "bullets", f"{bullets} of {len(lines)} lines"
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    if len(lines) > 3 and ellipses * 10_000 > len(lines) * MAX_ELLIPSES_BPS:
        yield "ellipses", f"{ellipses} of {len(lines)} lines"
    counts = Counter(line for line in lines if len(line) >= MIN_REPEATED_CHARS)
    repeated = sum(len(line) * (count - 1) for line, count in counts.items())
    total = sum(map(len, lines))
    if repeated * 10_000 > total * MAX_REPEATED_BPS:
        yield "repeats", f"{100 * repeated // total} % of it is lines that stand there already"
