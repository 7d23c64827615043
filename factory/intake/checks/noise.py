"""Text that is none: encoded data, words drawn from a list, words out of order.

By counts alone, in any language:

    bytes that do not pack together   encoded or encrypted data
    bytes that pack to nearly none    the same again and again
    hardly a word comes twice         random letters, words drawn from a list
    a word stands beside itself as often as if all were shuffled
                                      shuffled text: no language says "the the"

Good nonsense passes. The base's own loss sees more; whoever has a base gives it (`by_loss`).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules

MIN_BYTES = 512
MAX_PACKED_BPS = 7_500
MIN_PACKED_BPS = 800
MIN_WORDS = 200
MAX_DISTINCT_BPS = 9_200
MIN_EXPECTED = 12.0
"""Neighbours alike that a shuffle would have, below which nothing can be said."""
MAX_LOSS_PERCENT = 200
"""Of the datanet's median."""


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Judge each document, and the order of the words of all together."""
    findings = []
    expected = 0.0
    seen = 0
    for place, document in enumerate(documents):
        detail = _judge(document)
        one_expected, one_seen = alike_neighbours(document.words)
        expected += one_expected
        seen += one_seen
        if detail is None and _is_shuffled(one_expected, one_seen):
            detail = f"{one_seen} words stand beside themselves, as in shuffled text"
        if detail is not None:
            findings.append(find("noise", place, detail))
    if _is_shuffled(expected, seen):
        detail = f"{seen} words stand beside themselves; shuffled, {expected:.0f} would"
        findings.append(find("shuffled", None, detail))
    return findings


def by_loss(losses: Sequence[int], median: int) -> list[Finding]:
    """Hold documents on which the base's loss is far above the datanet's median."""
    if not median:
        return []
    return [
        find("loss", place, f"{loss / 1000:.1f} nats a token; the median is {median / 1000:.1f}")
        for place, loss in enumerate(losses)
        if loss * 100 > median * MAX_LOSS_PERCENT
    ]


def _judge(document: Looked) -> str | None:
    size = len(document.data)
    if size >= MIN_BYTES:
        packed = len(zlib.compress(document.data, 6)) * 10_000 // size
        if packed > MAX_PACKED_BPS:
            return f"it packs to {packed // 100} % only, as encoded data does"
        if packed < MIN_PACKED_BPS:
            return f"it packs to {packed // 100} %, so it says the same again and again"
    num_words = len(document.words)
    if num_words >= MIN_WORDS:
        distinct = len(set(document.words)) * 10_000 // num_words
        if distinct > MAX_DISTINCT_BPS:
            return f"{distinct // 100} % of its words come once, as words drawn from a list do"
    return None


def alike_neighbours(words: Sequence[str]) -> tuple[float, int]:
    """Return how many words would stand beside themselves if the text were shuffled, and how many
    do. Numbers are passed by: tables repeat them.
    """
    counts = Counter(word for word in words if word.isalpha())
    pairs = sum(count * (count - 1) for count in counts.values())
    seen = sum(a == b and a.isalpha() for a, b in pairwise(words))
    return pairs / len(words) if words else 0.0, seen


def _is_shuffled(expected: float, seen: int) -> bool:
    return expected >= MIN_EXPECTED and seen * 2 > expected
