"""The texts of texts.py as people give them: each contributor's passages in a few contributions.
Decides who gives what, and in which order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .texts import TEXTS, Domain, Passage, passages_of

NUM_PARTS = 4  # contributions to each datanet


@dataclass(frozen=True)
class Part:
    """What one contributor gives at one time; passages by their places in the text."""

    contributor: int
    title: str
    passages: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """One adapter's text, and who gives which part of it."""

    domain: Domain
    passages: Sequence[Passage]
    parts: tuple[Part, ...]

    def label(self, contributor: int, title: str) -> str:
        """Say whose a contribution is, and which."""
        return f"{self.domain.contributors[contributor].name}, {title}"

    @property
    def name(self) -> str:
        """The adapter's name."""
        return self.domain.name


def read_corpora(texts: Path, names: Sequence[str]) -> list[Corpus]:
    """Read the texts of these adapters, of all if none is named."""
    return [_read(domain, texts) for domain in TEXTS if not names or domain.name in names]


def _read(domain: Domain, texts: Path) -> Corpus:
    passages = passages_of(domain, texts)
    parts: list[Part] = []
    each = NUM_PARTS // len(domain.contributors)
    for place, who in enumerate(domain.contributors):
        own = [i for i in range(len(passages)) if who.owns(i, len(passages))]
        for number in range(each):
            cut = slice(len(own) * number // each, len(own) * (number + 1) // each)
            parts.append(Part(place, f"part {number + 1} of {each}", tuple(own[cut])))
    return Corpus(domain, passages, tuple(parts))
