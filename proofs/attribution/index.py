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

from ..errors import StaleIndex, TokensError
from .runs import look_back
from .slices import Small, gather
from .sorting import (
    count_common,
    first_of_rank,
    previous_alike,
    shared_lengths,
    sort_positions,
)
from .storage import Array, map_arrays, write_arrays
from .suffixes import SAMPLE, Common, Owners, Suffixes
from .tokens import END, Tokens, room_in
from .windows import only_first

WINDOW = 8  # tokens; a token counts with a window around it
MAX_CONTEXT = 8  # tokens that the ladder looks back


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
    row = only_first(tokens.row, WINDOW) if tokens.num_contributors else tokens.row
    text = row[room_in(row) :]
    runs = look_back(row, room_in(row))
    order = sort_positions(text)
    first = first_of_rank(text, len(tokens.vocabulary))
    shared = shared_lengths(text, runs, order, depth)
    common = count_common(
        first,
        shared,
        previous=previous_alike(order, shared, int(first[1])),
        owner=gather(_givers(tokens), order),
        num_owners=tokens.num_contributors,
        depth=depth,
    )
    samples = runs[order[::SAMPLE]]
    return Suffixes(row, order, first, samples, common=common, owners=_owners(tokens))


def _givers(tokens: Tokens) -> Small:
    """Return who gave the token at each position, the end mark at the beginning too."""
    givers = np.zeros(len(tokens.ranks), dtype=np.uint8)
    if tokens.num_contributors:
        owners = _owners(tokens)
        givers[1:] = np.repeat(owners.contributors.astype(np.uint8), np.diff(tokens.starts))
    return givers


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
        "samples": suffixes.samples,
    }
    if suffixes.row is not tokens.row:
        arrays["row"] = suffixes.row
    write_arrays(path, tokens.digest, arrays)


def open_suffixes(path: Path, tokens: Tokens) -> Suffixes:
    """Map into memory what was sorted of a text. Raises StaleIndex, OSError."""
    arrays = map_arrays(path, tokens.digest)
    return Suffixes(
        row=arrays.get("row", tokens.row),
        order=arrays["order"],
        first=arrays["first"],
        samples=arrays["samples"],
        common=Common(arrays["keys"], arrays["following"], arrays["owned"]),
        owners=_owners(tokens),
    )
