"""The texts of scripts/train_adapters.py as people give them: each contributor's passages in a few
contributions. Decides who gives what, and in which order; trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.attribution.texts import train_adapters

NUM_PARTS = 4  # contributions to each datanet


@dataclass(frozen=True)
class Part:
    """What one contributor gives at one time; passages by their places in the text."""

    contributor: int
    title: str
    passages: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """One adapter's text. `domain`, `passages` are those of scripts/train_adapters.py; `held_out`
    are the passages that it never trains on.
    """

    domain: Any
    passages: Sequence[Any]
    held_out: frozenset[int]
    parts: tuple[Part, ...]

    def label(self, contributor: int, title: str) -> str:
        """Say whose a contribution is, and which."""
        return f"{self.domain.contributors[contributor].name}, {title}"

    @property
    def name(self) -> str:
        """The adapter's name."""
        return str(self.domain.name)


def read_corpora(texts: Path, names: Sequence[str]) -> list[Corpus]:
    """Read the texts of these adapters, of all if none is named."""
    domains = [one for one in train_adapters().TEXTS if not names or one.name in names]
    return [_read(domain, texts) for domain in domains]


def _read(domain: Any, texts: Path) -> Corpus:
    learnt, held_out = train_adapters().passages_of(domain, texts)
    passages = [passage for _, passage in sorted([*learnt, *held_out], key=lambda one: one[0])]
    parts: list[Part] = []
    each = NUM_PARTS // len(domain.contributors)
    for place, who in enumerate(domain.contributors):
        own = [i for i in range(len(passages)) if who.owns(i, len(passages))]
        for number in range(each):
            cut = slice(len(own) * number // each, len(own) * (number + 1) // each)
            parts.append(Part(place, f"part {number + 1} of {each}", tuple(own[cut])))
    return Corpus(domain, passages, frozenset(i for i, _ in held_out), tuple(parts))
