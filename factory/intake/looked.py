"""One document as every check sees it: its text, words and shingles, made once. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from .words import Hashes, Shingles, words_digest, words_of


@dataclass(frozen=True)
class Looked:
    """A document. `shingles` are distinct and ascending; `digest` is that of its words."""

    title: str
    text: str
    data: bytes = field(repr=False)
    words: list[str] = field(repr=False)
    digest: bytes
    shingles: Hashes = field(repr=False)


def look_at(title: str, text: str, numbering: Shingles) -> Looked:
    """Return a document with what follows from its text."""
    words = words_of(text)
    return Looked(
        title=title,
        text=text,
        data=text.encode(),
        words=words,
        digest=words_digest(words),
        shingles=numbering.of(words),
    )
