"""One document as every check sees it: its text, words and shingles, made once. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .words import Hashes, Shingles, words_digest, words_of


@dataclass(frozen=True)
class Looked:
    """A document. `row` has its shingles as they come, `shingles` each once, ascending; `digest` is
    that of its words.
    """

    title: str
    text: str
    data: bytes = field(repr=False)
    words: list[str] = field(repr=False)
    digest: bytes
    row: Hashes = field(repr=False)
    shingles: Hashes = field(repr=False)


def look_at(title: str, text: str, numbering: Shingles) -> Looked:
    """Return a document with what follows from its text."""
    words = words_of(text)
    row = numbering.row(words)
    return Looked(
        title=title,
        text=text,
        data=text.encode(),
        words=words,
        digest=words_digest(words),
        row=row,
        shingles=np.unique(row),
    )
