"""Decides which adapters match what somebody looks for, and how well. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from proofs.manifest import Manifest

from .about import About

IN_NAME = 4
IN_DESCRIPTION = 2
ELSEWHERE = 1


@dataclass(frozen=True)
class Query:
    """Words that must all occur, and conditions; what is empty does not matter.

    `language` "en" also matches "en-GB". `base` is how the hex digest of a base begins.
    """

    words: tuple[str, ...] = ()
    language: str = ""
    licence: str = ""
    base: str = ""
    max_size_bytes: int | None = None

    def rank(self, manifest: Manifest, about: About) -> int | None:
        """Return how well an adapter matches, None where it does not."""
        size_bytes = sum(file.size for file in manifest.files)
        if self.max_size_bytes is not None and size_bytes > self.max_size_bytes:
            return None
        if self.licence and manifest.licence.casefold() != self.licence.casefold():
            return None
        if not manifest.base.hex().startswith(self.base.casefold()):
            return None
        if self.language and not any(_speaks(one, self.language) for one in about.languages):
            return None
        ranks = [_rank_word(word.casefold(), manifest, about) for word in self.words]
        return sum(ranks) if all(ranks) else None


def _rank_word(word: str, manifest: Manifest, about: About) -> int:
    """Return where a word occurs, 0 if nowhere."""
    if word in manifest.name.casefold():
        return IN_NAME
    if word in about.description.casefold():
        return IN_DESCRIPTION
    sources = (one.source for one in manifest.contributors)
    return ELSEWHERE * any(word in text.casefold() for text in (manifest.source, *sources))


def _speaks(tag: str, wanted: str) -> bool:
    tag = tag.casefold()
    wanted = wanted.casefold()
    return tag == wanted or tag.startswith(f"{wanted}-")
