"""What an adapter's contributors wrote, ready to be asked where an answer's words stand in it.

Decides which tokens count: those of windows of 8 that stand nowhere before; the others are as if
they were not there. Built from `attribution.tokens` alone, by everybody alike, and kept beside it
as a cache; knows no rule of pay.

    index = Index.build(read_tokens(data))           # once; at 100 million tokens half a minute
    index.save(path)
    index = Index.open(path, tokens)                 # StaleIndex: of another text, or spoilt
    index = Index.cached(path, tokens)               # open, or else build and save
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import StaleIndex, TokensError
from .sorting import (
    count_common,
    first_of_rank,
    first_time,
    previous_alike,
    shared_lengths,
    sort_positions,
)
from .storage import Array, map_arrays, write_arrays
from .suffixes import Common, Owners, Suffixes
from .tokens import END, Ranks, Tokens

WINDOW = 8  # tokens; a token counts with a window around it
MAX_CONTEXT = 8  # tokens that the ladder looks back

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Index:
    """The positions of a text, sorted, and whose the token at each is."""

    tokens: Tokens
    suffixes: Suffixes

    @property
    def num_contributors(self) -> int:
        """How many contributors the text has."""
        return self.tokens.num_contributors

    @classmethod
    def build(cls, tokens: Tokens) -> Index:
        """Sort a text. Takes about 0.3 µs and 30 bytes a token while it does; releases no lock.

        Raises TokensError for a background.
        """
        if not tokens.num_contributors:
            raise TokensError("contributors", "a background has none: nobody's text pays nobody")
        return cls(tokens, sort_text(tokens, MAX_CONTEXT + 1))

    def save(self, path: Path) -> None:
        """Write the cache: whole or not at all. Raises OSError."""
        save_suffixes(path, self.tokens, self.suffixes)

    @classmethod
    def open(cls, path: Path, tokens: Tokens) -> Index:
        """Map the cache of a text into memory.

        Raises StaleIndex where it is another text's, was made by another version or is spoilt;
        OSError where it cannot be read.
        """
        return cls(tokens, open_suffixes(path, tokens))

    @classmethod
    def cached(cls, path: Path, tokens: Tokens) -> Index:
        """Open the cache, or build it anew where it is not there or not to be used."""
        try:
            return cls.open(path, tokens)
        except (StaleIndex, FileNotFoundError):
            cls.build(tokens).save(path)
            return cls.open(path, tokens)

    def owned_tokens(self) -> tuple[int, ...]:
        """Return how many of each contributor's tokens count; standing weights are scaled by
        these.
        """
        owners = self.suffixes.owners
        counts = np.zeros(self.num_contributors, dtype=np.int64)
        owned = np.add.reduceat(self.suffixes.text != END, owners.starts, dtype=np.int64)
        np.add.at(counts, owners.contributors, owned)
        return tuple(counts.tolist())


def sort_text(tokens: Tokens, depth: int) -> Suffixes:
    """Sort a text for contexts of up to `depth` tokens."""
    text = tokens.ranks
    order = sort_positions(text)
    shared = shared_lengths(text, order, max(depth, WINDOW))
    if tokens.num_contributors:
        counts = first_time(text, order, shared, WINDOW)
        if np.count_nonzero(counts) < tokens.num_tokens:
            text = _only(text, counts)
            del order, shared  # before there are others: these are the largest arrays of all
            order = sort_positions(text)
            shared = shared_lengths(text, order, depth)
    first = first_of_rank(text, len(tokens.vocabulary))
    owners = _owners(tokens)
    owner = np.empty(len(order), dtype=np.uint8)
    for start in range(0, len(order), 1 << 22):
        part = slice(start, start + (1 << 22))
        owner[part] = owners.of(order[part].astype(np.int64))
    common = count_common(
        first,
        shared,
        previous=previous_alike(order, shared, int(first[1])),
        owner=owner,
        num_owners=tokens.num_contributors,
        depth=depth,
    )
    return Suffixes(text, order, first, common, owners)


def _only(text: Ranks, counts: Mask) -> Ranks:
    """Return a text with end marks in the place of all tokens that do not count."""
    only: Ranks = text * counts
    return only


def _owners(tokens: Tokens) -> Owners:
    givers = np.array([giver for giver, _ in tokens.contributions], dtype=np.int64)
    return Owners(tokens.num_contributors, tokens.starts[:-1], givers)


def save_suffixes(path: Path, tokens: Tokens, suffixes: Suffixes) -> None:
    """Write what was sorted, under the digest of its text."""
    arrays: dict[str, Array] = {
        "order": suffixes.order,
        "first": suffixes.first,
        "keys": suffixes.common.keys,
        "following": suffixes.common.following,
        "owned": suffixes.common.owned,
        "counts": np.packbits(suffixes.text != END, bitorder="little"),
    }
    write_arrays(path, tokens.digest, arrays)


def open_suffixes(path: Path, tokens: Tokens) -> Suffixes:
    """Map into memory what was sorted of a text. Raises StaleIndex, OSError."""
    arrays = map_arrays(path, tokens.digest)
    text = tokens.ranks
    if tokens.num_contributors:
        counts = np.unpackbits(arrays["counts"], count=len(text), bitorder="little")
        text = _only(text, counts.view(np.bool_))
    return Suffixes(
        text=text,
        order=arrays["order"],
        first=arrays["first"],
        common=Common(arrays["keys"], arrays["following"], arrays["owned"]),
        owners=_owners(tokens),
    )
