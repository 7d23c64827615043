"""Decides which adapters match what somebody looks for, and how well. Pure."""

from __future__ import annotations

from proofs.manifest import Manifest

from ..api.adapters import SearchRequest
from .about import About

IN_NAME = 4
IN_DESCRIPTION = 2
ELSEWHERE = 1


def rank(wanted: SearchRequest, manifest: Manifest, about: About) -> int | None:
    """Return how well an adapter matches, None where it does not.

    All words must occur. Language "en" also matches "en-GB".
    """
    size_bytes = sum(file.size for file in manifest.files)
    if wanted.max_size_bytes is not None and size_bytes > wanted.max_size_bytes:
        return None
    if wanted.licence and manifest.licence.casefold() != wanted.licence.casefold():
        return None
    if not manifest.base.hex().startswith(wanted.base.casefold()):
        return None
    if wanted.language and not any(_speaks(one, wanted.language) for one in about.languages):
        return None
    ranks = [_rank_word(word.casefold(), manifest, about) for word in wanted.words]
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
