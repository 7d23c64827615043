"""How likely anybody is to write a token: counts over text that is nobody's, orders 0 to 4.

The base's own samples and public templates. What it foretells, no contributor is paid for. Decides
no pay; all integers, probabilities in 1/2^20.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import StaleIndex, TokensError
from .index import open_suffixes, save_suffixes, sort_text
from .suffixes import Suffixes
from .tokens import Contribution, Ints, Tokens, write_tokens

ONE = 1 << 20  # the probability 1
UNIFORM = ONE >> 16  # of a token about which nothing is known: one of 65,536
MAX_ORDER = 4  # tokens of context


def write_background(tokenizer_hash: bytes, documents: Iterable[Sequence[int] | Ints]) -> bytes:
    """Write the bytes of `background.tokens`. Raises TokensError."""
    return write_tokens(tokenizer_hash, 0, [Contribution(0, list(documents))])


@dataclass(frozen=True, eq=False)
class Background:
    """A text that is nobody's, sorted."""

    tokens: Tokens
    suffixes: Suffixes

    @classmethod
    def build(cls, tokens: Tokens) -> Background:
        """Sort a text. Raises TokensError where it has contributors."""
        if tokens.num_contributors:
            raise TokensError(
                "contributors", "a background is nobody's, this text has contributors"
            )
        return cls(tokens, sort_text(tokens, MAX_ORDER + 1))

    def save(self, path: Path) -> None:
        """Write the cache: whole or not at all. Raises OSError."""
        save_suffixes(path, self.tokens, self.suffixes)

    @classmethod
    def open(cls, path: Path, tokens: Tokens) -> Background:
        """Map the cache of a text into memory. Raises StaleIndex and OSError, as Index.open."""
        return cls(tokens, open_suffixes(path, tokens))

    @classmethod
    def cached(cls, path: Path, tokens: Tokens) -> Background:
        """Open the cache, or build it anew where it is not there or not to be used."""
        try:
            return cls.open(path, tokens)
        except (StaleIndex, FileNotFoundError):
            cls.build(tokens).save(path)
            return cls.open(path, tokens)

    def predict(self, ids: Ints, start: int) -> Ints:
        """Return the probability of each token from ids[start] on, in 1/2^20 and at least that:
        interpolated over orders 0 to 4 (Witten and Bell 1991, method C).
        """
        nodes = self.suffixes.narrow(self.tokens.ranks_of(ids), start, MAX_ORDER + 1)
        following, _ = self.suffixes.count(nodes)
        sizes = nodes.sizes
        # The empty context is followed by each token and end mark, but for the text's first.
        total = np.full(len(sizes) - 1, len(self.tokens.ranks) - 1)
        different = np.full(len(sizes) - 1, len(self.tokens.vocabulary) + 1)
        likely = interpolate(np.full(len(total), UNIFORM), sizes[1:, 1] * ONE, total, different)
        for order in range(1, MAX_ORDER + 1):
            likely = interpolate(
                likely, sizes[1:, order + 1] * ONE, sizes[:-1, order], following[:-1, order - 1]
            )
        return np.maximum(likely, 1)


def interpolate(below: Ints, here: Ints, seen: Ints, following: Ints) -> Ints:
    """Return what a context foretells, mixed with what the shorter one did: (here + k · below) div
    (N + k), and `below` where the context was never seen.

    `here` is in 1/2^20 and counted; `seen` is N, `following` is k.
    """
    mixed = (here + following * below) // np.maximum(seen + following, 1)
    return np.where(seen > 0, mixed, below)
