"""Phrases that somebody repeats in many documents and nobody wrote before: where a curator looks
first, since a few dozen documents with one phrase suffice to teach a model an answer to it.

First those whose words stand nowhere else in what is given: a field's phrases are made of its
words and a form is on every page, a planted phrase is made of rare ones. Notes alone: says where to
look, not that anything is wrong. Sees no phrase of fewer than five words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules
from ..words import SHINGLE_WORDS, Hashes
from .novelty import NOBODY, build_table, runs_of

MIN_DOCUMENTS = 8
MAX_SHOWN = 10
MAX_SHOWN_WORDS = 12


@dataclass(frozen=True)
class Phrase:
    """Words that stand in `num_documents` documents, `document` first; `rare` is how many of a
    thousand of them stand in no other document, times the share of documents without the phrase.
    """

    words: tuple[str, ...]
    document: int
    num_documents: int
    rare: int


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Name the ten phrases to look at first, each once, at its first document."""
    often = _often(documents, known)
    if not len(often):
        return []
    phrases = sorted(
        _phrases(documents, often),
        key=lambda one: (-one.rare, -one.num_documents, one.document),
    )
    return [find("look-first", one.document, _detail(one)) for one in phrases[:MAX_SHOWN]]


def _detail(phrase: Phrase) -> str:
    more = " …" if len(phrase.words) > MAX_SHOWN_WORDS else ""
    shown = " ".join(phrase.words[:MAX_SHOWN_WORDS])
    return (
        f"“{shown}{more}” stands in {phrase.num_documents} documents given here, and in none before"
    )


def _often(documents: Sequence[Looked], known: Known) -> Hashes:
    """The shingles of MIN_DOCUMENTS documents or more that nobody else gave before."""
    if len(documents) < MIN_DOCUMENTS:
        return np.empty(0, np.uint64)
    together = np.concatenate([document.shingles for document in documents])
    shingles, counts = np.unique(together, return_counts=True)
    often = shingles[counts >= MIN_DOCUMENTS]
    table = build_table(often, known)
    fresh: Hashes = often[table.first == NOBODY]
    return fresh


def _phrases(documents: Sequence[Looked], often: Hashes) -> list[Phrase]:
    """What runs of such shingles say; of several that begin alike, the first."""
    first: dict[int, tuple[int, tuple[str, ...]]] = {}
    counts: Counter[int] = Counter()
    for place, document in enumerate(documents):
        here = set[int]()
        for start, end in runs_of(np.isin(document.row, often)):
            key = int(document.row[start])
            here.add(key)
            words = document.words[start : end + SHINGLE_WORDS - 1]
            first.setdefault(key, (place, tuple(words)))
        counts.update(here)
    spread = Counter(word for document in documents for word in set(document.words))
    return [
        Phrase(
            words,
            place,
            counts[key],
            _rare(words, spread, counts[key]) * (len(documents) - counts[key]) // len(documents),
        )
        for key, (place, words) in first.items()
        if counts[key] >= MIN_DOCUMENTS
    ]


def _rare(words: Sequence[str], spread: Counter[str], num_documents: int) -> int:
    return 1000 * sum(spread[word] <= num_documents for word in words) // len(words)
